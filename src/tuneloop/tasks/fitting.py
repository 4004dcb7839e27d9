"""One search over tables: its runs, each a durable step and an MLflow run, and the best model kept."""

import io
import json
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import structlog
from rich.console import Console

from tuneloop import __version__
from tuneloop.errors import InvalidInput, TuneloopError
from tuneloop.iteration.job import Durable, IterationFailed
from tuneloop.methods.contract import Canceled
from tuneloop.models.store import StoredModels
from tuneloop.models.table_models import save_table_model
from tuneloop.relational.dataset import Dataset
from tuneloop.relational.fitter import Fitter, parts_of
from tuneloop.relational.learner import Folds, Predictions
from tuneloop.relational.report import terminal, write_report
from tuneloop.relational.search import BLEND, Search, Tried
from tuneloop.relational.settings import RelationalSettings
from tuneloop.tasks.follower import Follower
from tuneloop.tracking import MetricStream, RunInfo, Tracking
from tuneloop.tracking.names import REPORT_FOLDER

log = structlog.get_logger(__name__)
TRIED_TAG = "tuneloop.tried"
EXAMPLE_ROWS = 5


class Fitting:
    """The runs of one task on tables.

    Args:
        task_id, attempt: of the task.
        dataset: what is learnt.
        settings: of the search.
        folds: the task's examples.
        fitter: fits them.
        search: chooses what to try.
        experiment_id: of MLflow.
        tracking, stored: where runs and models go.
        follower: whoever asked.
        durable: does a step once.
        work_dir: local copies; gone afterwards.
    """

    def __init__(
        self,
        *,
        task_id: str,
        attempt: int,
        dataset: Dataset,
        settings: RelationalSettings,
        folds: Folds,
        fitter: Fitter,
        search: Search,
        experiment_id: str,
        tracking: Tracking,
        stored: StoredModels,
        follower: Follower,
        durable: Durable,
        work_dir: Path,
    ) -> None:
        self._task_id = task_id
        self._attempt = str(attempt)
        self._dataset = dataset
        self._settings = settings
        self._folds = folds
        self._fitter = fitter
        self._search = search
        self._experiment_id = experiment_id
        self._tracking = tracking
        self._stored = stored
        self._follower = follower
        self._durable = durable
        self._work_dir = work_dir
        self._tested: tuple[str, Predictions | None] = "", None
        self._metric = fitter.task.evaluation_metric

    def run(self) -> tuple[Tried, list[Tried]]:
        """All runs; the best of them, whose model is stored, and all.

        Raises:
            Canceled: through the follower.
            IterationFailed: no run came to a model.
        """
        tried: list[Tried] = []
        total = self._settings.max_runs
        for number in range(total):
            # Counted by what the runs took, so that time spent dead or waiting is not held against the search.
            if self._settings.max_minutes and sum(each.seconds for each in tried) > self._settings.max_minutes * 60:
                break
            self._follower.progress(stage="training", runs_done=number, runs_total=total, epoch=None, epochs=None)
            tried.append(self._step(number, tried))
        champions = self._champions(tried)
        if self._settings.blend and len(champions) == 2:
            self._follower.progress(stage="blending", epoch=None, epochs=None)
            tried.append(self._step(len(tried), tried, champions))
        best = self._search.best(tried)
        if best is None:
            raise IterationFailed(f"all {len(tried)} runs failed; the last one: {tried[-1].detail}")
        return best, tried

    def report(self, best: Tried, tried: Sequence[Tried]) -> None:
        """Store a report of the search beside the best model, and tell its short version."""

        def work() -> None:
            self._follower.progress(stage="writing the report", epoch=None, epochs=None)
            curves = {
                name: self._tracking.metric_history(best.run_id, name)
                for name in self._tracking.get_run(best.run_id).metrics
                if not name.startswith("test_")
            }
            watcher = Quiet(RunWatcher(self._follower))
            facts = self._fitter.facts(best, tried, curves, self._test_predictions(best, tried, watcher), watcher)
            folder = self._work_dir / "report"
            shutil.rmtree(folder, ignore_errors=True)
            write_report(facts, folder)
            self._tracking.artifacts.upload(best.run_id, folder, into=REPORT_FOLDER)
            for line in printed(terminal(facts)):
                self._follower.log(line)

        self._durable("report", work)

    def _test_predictions(self, best: Tried, tried: Sequence[Tried], watcher: "RunWatcher") -> Predictions | None:
        """Of the stored model; computed again where the process that knew them is gone."""
        run_id, tested = self._tested
        if run_id != best.run_id and self._folds.test is not None:
            tested = self._fitter.test(self._fitter.model(parts_of(best, tried), watcher), watcher)
        return tested

    def _champions(self, tried: Sequence[Tried]) -> list[Tried]:
        """The best run of each learner, of the two learners whose best are ahead."""
        found = [self._search.champion(tried, name) for name in dict.fromkeys(each.learner for each in tried)]
        known = [each for each in found if each is not None]
        sign = -1 if self._fitter.task.maximise else 1
        return sorted(known, key=lambda each: sign * (each.validation or 0.0))[:2]

    def _step(self, number: int, tried: Sequence[Tried], champions: Sequence[Tried] = ()) -> Tried:
        def work() -> dict[str, Any]:
            done = self._finished().get(number)
            if done is None:
                done = self._run(number, tried, champions)
            best = self._search.best([*tried, done])
            for each in [*tried, done]:  # the successor is safe: its predecessors can go
                if best is not None and each.run_id != best.run_id:
                    self._tracking.delete_model(each.run_id)
            return done.to_json()

        return Tried.from_json(self._durable(f"run {number + 1}", work))

    def _run(self, number: int, tried: Sequence[Tried], champions: Sequence[Tried]) -> Tried:
        question = None if champions else self._search.ask(tried)
        name = BLEND if question is None else question.learner
        params = dict(question.params) if question else {each.learner: each.number + 1 for each in champions}
        run_id = self._tracking.create_run(
            self._experiment_id,
            name=f"run {number + 1}: {name}",
            params={"learner": name, **params},
            tags=self._tags(number, name),
        )
        done = Tried(number, name, params, suggested=question.suggested if question else {}, run_id=run_id)
        self._follower.log(f"run {number + 1}: {name} {_short(params)}")
        began = time.monotonic()
        stream = MetricStream(self._tracking, run_id)
        watcher = RunWatcher(self._follower, stream)
        try:
            if question is not None:
                found = self._fitter.fit(number, question, watcher)
                value, predictions = found.value, found.predictions
                done = replace(done, found=found.found)
                parts = [(done, 1.0)]
            else:
                weights, predictions = self._fitter.blend(champions, watcher)
                value = self._fitter.value(self._folds.validation, predictions)
                parts = list(zip(champions, weights, strict=True))
                done = replace(done, found={"runs": [each.number for each in champions], "weights": weights})
            metrics = self._fitter.metrics(self._folds.validation, predictions)
            if self._metric not in metrics or not math.isfinite(value):
                raise ArithmeticError(f"{self._metric} of the validation examples is no number")
            done = replace(done, outcome="done", value=value, validation=metrics[self._metric], metrics=metrics)
            stream.log({f"val_metric_{key}": each for key, each in metrics.items()}, step=watcher.last_step + 1)
            if self._search.best([*tried, done]) is done:
                done = self._store(run_id, done, parts, stream, watcher)
        except (Canceled, TuneloopError) as error:
            if isinstance(error, Canceled) or not _of_data(error):
                stream.close(flush=False)
                raise
            done = replace(done, outcome="failed", detail=error.detail)
        except Exception as error:
            log.exception("run failed", task_id=self._task_id, run_id=run_id)
            done = replace(done, outcome="failed", detail=f"{type(error).__name__}: {error}")
        done = replace(done, seconds=time.monotonic() - began)
        stream.close()
        self._end(done)
        return done

    def _store(
        self,
        run_id: str,
        done: Tried,
        parts: Sequence[tuple[Tried, float]],
        stream: MetricStream,
        watcher: "RunWatcher",
    ) -> Tried:
        """Fit again on training and validation examples, measure on the test examples, and store."""
        self._follower.progress(stage="fitting on all examples", epoch=None, epochs=None)
        model = self._fitter.model(parts, Quiet(watcher))
        tested = self._fitter.test(model, Quiet(watcher))
        self._tested = run_id, tested
        if tested is not None:
            assert self._folds.test is not None
            metrics = self._fitter.metrics(self._folds.test, tested)
            done = replace(done, metrics={**done.metrics, **{f"test_{key}": each for key, each in metrics.items()}})
            stream.log({f"test_metric_{key}": each for key, each in metrics.items()}, step=watcher.last_step + 1)
        self._follower.progress(stage="storing the model")
        folder = self._work_dir / "candidate"
        shutil.rmtree(folder, ignore_errors=True)
        save_table_model(model, folder, example_of(self._dataset, self._folds))
        self._stored.record(run_id, folder)
        self._tracking.store_model(run_id, folder)
        shutil.rmtree(folder)
        return done

    def _tags(self, number: int, learner: str) -> dict[str, str]:
        return {
            "tuneloop.task_id": self._task_id,
            "tuneloop.attempt": self._attempt,
            "tuneloop.learner": learner,
            "tuneloop.dataset": self._dataset.name,
            "tuneloop.code_version": __version__,
            "tuneloop.seed": str(self._settings.seed),
            "tuneloop.run_index": str(number),
            "tuneloop.main_metric": self._metric,
            "tuneloop.data.train": str(len(self._folds.train)),
            "tuneloop.data.validation": str(len(self._folds.validation)),
            "tuneloop.data.test": str(len(self._folds.test) if self._folds.test is not None else 0),
        }

    def _finished(self) -> dict[int, Tried]:
        """Finished runs by number. Interrupted ones are marked as killed; failed ones are tried again with the task."""
        found = {}
        for run in end_interrupted(self._tracking, self._experiment_id, self._task_id):
            done = _tried(run)
            if done is not None and (done.outcome == "done" or run.tags.get("tuneloop.attempt") == self._attempt):
                found[done.number] = done
        return found

    def _end(self, done: Tried) -> None:
        value = "" if done.validation is None else f" {self._metric} {done.validation:.4f} on validation,"
        self._follower.log(f"run {done.number + 1}: {done.outcome},{value} {done.seconds:.0f} s {done.detail or ''}")
        tags: dict[str, str] = {"tuneloop.outcome": done.outcome}
        if done.detail:
            tags["tuneloop.detail"] = done.detail[:1000]
        self._tracking.set_tags(done.run_id, tags)
        # This comes last: it makes the run a finished one.
        self._tracking.end_run(done.run_id, _status(done), {TRIED_TAG: json.dumps(done.to_json())})


class RunWatcher:
    """What learners tell of a run, on its way to the task and to MLflow (`relational.learner.Watcher`)."""

    def __init__(self, follower: Follower, stream: MetricStream | None = None) -> None:
        self._follower = follower
        self._stream = stream
        self.last_step = 0

    def check(self) -> None:
        """Raises Canceled when the task was."""
        self._follower.check()

    def progress(self, stage: str, *, epoch: int | None = None, epochs: int | None = None) -> None:
        """Tell people what is being done."""
        self._follower.check()
        self._follower.progress(stage=stage, epoch=epoch, epochs=epochs)

    def report(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Track metrics of an epoch or a round; those that are no number are left out."""
        self._follower.check()
        self.last_step = max(self.last_step, step)
        if self._stream is not None:
            self._stream.log({name: value for name, value in metrics.items() if math.isfinite(value)}, step=step)

    def log(self, line: str) -> None:
        """Say something worth reading later."""
        self._follower.log(line)


class Quiet(RunWatcher):
    """The same without metrics: those of fitting again are not those of the run."""

    def __init__(self, watcher: RunWatcher) -> None:
        super().__init__(watcher._follower)


def end_interrupted(tracking: Tracking, experiment_id: str, task_id: str) -> list[RunInfo]:
    """All runs of a task; those that were interrupted are marked as killed and lose their models."""
    runs = tracking.task_runs(experiment_id, task_id)
    for run in runs:
        done = _tried(run)
        if run.status == "RUNNING":  # finished, it was only killed before its last line
            tracking.end_run(run.run_id, "KILLED" if done is None else _status(done))
        if done is None:
            tracking.delete_model(run.run_id)
    return runs


def printed(renderable: Any, width: int = 110) -> list[str]:
    """What a terminal without colours would show, line by line."""
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(renderable)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]  # it is the StringIO above
    return [line.rstrip() for line in text.splitlines()]


def example_of(dataset: Dataset, folds: Folds) -> Any:
    """A few entities and times, as a model is asked for."""
    import pyarrow as pa

    assert dataset.task is not None
    few = min(EXAMPLE_ROWS, len(folds.validation))
    columns = {dataset.task.entity.column: folds.validation.keys.slice(0, few)}
    if dataset.task.time_column is not None:
        columns[dataset.task.time_column] = pa.array(folds.validation.times[:few])
    return pa.table(columns)


def _tried(run: RunInfo) -> Tried | None:
    tag = run.tags.get(TRIED_TAG)
    return Tried.from_json(json.loads(tag)) if tag else None


def _status(done: Tried) -> Literal["FINISHED", "FAILED"]:
    return "FINISHED" if done.outcome == "done" else "FAILED"


def _of_data(error: TuneloopError) -> bool:
    return isinstance(error, InvalidInput)


def _short(params: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in params.items()
    )
