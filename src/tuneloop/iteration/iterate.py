"""The eight steps of an iteration: from a start model and a snapshot to a model that ranks better.

The numbers in the code are those of the list in docs/concepts.md.
"""

import shutil

from tuneloop.iteration.hyperparameters import Search
from tuneloop.iteration.job import Durable, IterationFailed, Job, Observer, Outcome
from tuneloop.iteration.record import RunRecord
from tuneloop.iteration.run import Executor
from tuneloop.iteration.start_model import StartModel, choose_start_model
from tuneloop.models.store import StoredModels
from tuneloop.tracking import Tracking


def iterate(job: Job, *, tracking: Tracking, stored: StoredModels, observer: Observer, durable: Durable) -> Outcome:
    """Do one iteration, or go on with one that was interrupted.

    Raises:
        Canceled: through `observer.check`.
        IterationFailed: no run could be trained to its end.
    """
    job.work_dir.mkdir(parents=True, exist_ok=True)
    try:
        observer.progress(stage="start model")
        start = StartModel(**durable("start model", lambda: vars(choose_start_model(job, tracking, stored))))  # 1
        search = _search(job, start)  # 2
        experiment_id = durable("experiment", lambda: tracking.open_iteration(job.name, job.batch_id))  # 3
        observer.found(experiment_id=experiment_id, start_run_id=start.run_id)
        executor = Executor(job, start, experiment_id, tracking=tracking, stored=stored, observer=observer)
        records = _run_all(job, search, executor, observer=observer, durable=durable)  # 4, 5, 6
        best = best_of(job, records)
        refusal = durable("verdict", lambda: _refusal(job, executor, records))
        if best is None or refusal is not None:
            return Outcome(None, refusal)
        observer.progress(stage="completing")
        durable("complete", lambda: _complete(job, tracking, experiment_id, best.run_id))  # 7
        observer.found(best_run_id=best.run_id)
        return Outcome(best.run_id, best.verdict)
    finally:
        shutil.rmtree(job.work_dir, ignore_errors=True)  # 8


def best_of(job: Job, records: list[RunRecord]) -> RunRecord | None:
    """The eligible run with the best main metric; the earlier one of equals."""
    best: RunRecord | None = None
    for record in records:
        than = best.value if best else None
        if record.outcome == "done" and record.value is not None and job.better(record.value, than):
            best = record
    return best


def _search(job: Job, start: StartModel) -> Search:
    return Search(
        job.method.search_space_for(job.snapshot),
        direction=job.direction,
        seed=job.method.settings.seed,
        defaults=job.method.default_params(),
        best=start.params,
    )


def _run_all(job: Job, search: Search, executor: Executor, *, observer: Observer, durable: Durable) -> list[RunRecord]:
    settings = job.method.settings
    records: list[RunRecord] = []
    for index in range(settings.max_runs):
        # Counted by what the runs took, so that time spent dead or waiting is not held against the search.
        if settings.max_minutes is not None and sum(record.seconds for record in records) > settings.max_minutes * 60:
            break
        observer.progress(stage="training", runs_done=index, runs_total=settings.max_runs)

        def run(index: int = index) -> dict[str, object]:
            best = best_of(job, records)
            record = executor.finished().get(index)
            if record is None:
                prepared, _ = executor.prepared()
                trial = search.ask(records, start=prepared.baseline.get(job.main_metric))
                record = executor.run(index, trial, best=best)
            executor.drop_superseded([*records, record], best_of(job, [*records, record]))
            return record.to_json()

        records.append(RunRecord.from_json(durable(f"run {index + 1}", run)))
    observer.progress(stage="training", runs_done=len(records), runs_total=len(records))
    return records


def _refusal(job: Job, executor: Executor, records: list[RunRecord]) -> str | None:
    """Why there is no best model; None when there is one."""
    if all(record.outcome in ("diverged", "failed") for record in records):
        raise IterationFailed(
            f"all {len(records)} runs failed; the last one: {records[-1].outcome}, {records[-1].detail}"
        )
    prepared, _ = executor.prepared()
    if reason := job.method.unpromotable(prepared):
        return f"no best model: {reason}"
    if best_of(job, records) is None:
        reasons = [record.detail for record in records if record.outcome == "ineligible"]
        return f"no best model: none of {len(records)} runs is eligible" + (f" ({reasons[-1]})" if reasons else "")
    return None


def _complete(job: Job, tracking: Tracking, experiment_id: str, best_run_id: str) -> None:
    tracking.complete_iteration(experiment_id, job.task_id, best_run_id=best_run_id)
    tracking.remove_earlier_iterations(job.name, keep_experiment_id=experiment_id, task_id=job.task_id)
