"""Steps 4 to 6: one run, from its hyperparameters to a finished MLflow run, and the best model kept."""

import math
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import optuna
import structlog

from tuneloop import __version__
from tuneloop.errors import TuneloopError
from tuneloop.iteration.job import Job, Observer
from tuneloop.iteration.record import RunOutcome, RunRecord
from tuneloop.iteration.report import make_report
from tuneloop.iteration.start_model import RECORD_TAG, StartModel, download_start_model, finished_record
from tuneloop.methods.contract import Canceled, Diverged, Prepared, Pruned, Trained
from tuneloop.models.store import StoredModels
from tuneloop.tracking import MetricStream, RunInfo, Tracking

log = structlog.get_logger(__name__)


class Executor:
    """Trains the runs of one iteration in this process. The data are prepared once, when a run first needs them."""

    def __init__(
        self,
        job: Job,
        start: StartModel,
        experiment_id: str,
        *,
        tracking: Tracking,
        stored: StoredModels,
        observer: Observer,
    ) -> None:
        self._job = job
        self._start = start
        self._experiment_id = experiment_id
        self._tracking = tracking
        self._stored = stored
        self._observer = observer
        self._ready: tuple[Prepared, Path] | None = None

    def prepared(self) -> tuple[Prepared, Path]:
        """The training data and the start model's folder."""
        if self._ready is None:
            self._observer.progress(stage="preparing")
            folder = download_start_model(self._job, self._start, self._tracking, self._stored)
            context = RunContext(self._job, self._observer)
            self._ready = self._job.method.prepare(self._job.snapshot, folder, context), folder
        return self._ready

    def finished(self) -> dict[int, RunRecord]:
        """The records of this task's finished runs, by index. Interrupted ones are marked as killed.

        A run that an error of the method ended is tried again when the task is.
        """
        records = {}
        for run in end_interrupted_runs(self._tracking, self._experiment_id, self._job.task_id):
            record = finished_record(run)
            retry = record and record.outcome == "failed" and run.tags.get("tuneloop.attempt") != self._attempt
            if record is not None and not retry:
                records[record.index] = record
        return records

    def run(self, index: int, trial: optuna.Trial, *, best: RunRecord | None) -> RunRecord:
        """Train once. When the model is eligible and beats `best` it is stored before the run counts as finished.

        Raises:
            Canceled: the task was canceled; `end_interrupted_runs` has yet to be called.
        """
        prepared, start_folder = self.prepared()
        run_id = self._tracking.create_run(
            self._experiment_id, name=f"run {index + 1}", params=trial.params, tags=self._tags(index, prepared)
        )
        began = time.monotonic()
        record = RunRecord(run_id, index, dict(trial.params), "failed")
        stream = MetricStream(self._tracking, run_id)
        context = RunContext(self._job, self._observer, trial=trial, stream=stream, best=best.value if best else None)
        try:
            stream.log(prepared.baseline, step=0)
            trained = self._job.method.train(prepared, start_folder, trial.params, context)
            record = self._judge(record, prepared, trained)
            # The curves end at the model that the run came to, which may be an earlier state than the last.
            stream.log(trained.metrics, step=context.last_step + 1)
            if self._beats(record, best, prepared):
                verdict, report = make_report(self._job, prepared, trained)
                stream.log(verdict.metrics if verdict else {}, step=context.last_step + 1)
                self._store(run_id, trained, report)
                record = replace(record, verdict=verdict.words if verdict else None)
        except Pruned:
            record = replace(record, outcome="pruned")
        except Diverged as error:
            record = replace(record, outcome="diverged", detail=str(error))
        except (Canceled, TuneloopError):  # the task ends, or MLflow stayed away; a restart goes on from here
            stream.close(flush=False)
            raise
        except Exception as error:
            log.exception("run failed", task_id=self._job.task_id, run_id=run_id)
            record = replace(record, outcome="failed", value=None, detail=f"{type(error).__name__}: {error}")
        record = replace(record, course=tuple(context.course), seconds=time.monotonic() - began)
        stream.close()
        self._finish(record)
        return record

    def drop_superseded(self, records: Sequence[RunRecord], best: RunRecord | None) -> None:
        """Delete the models of runs that were best for a while, once their successor is safe."""
        for record in records:
            if record.outcome == "done" and record != best:
                self._tracking.delete_model(record.run_id)

    @property
    def _seed(self) -> int:
        return self._job.method.settings.seed

    @property
    def _attempt(self) -> str:
        return str(self._job.attempt)

    def _tags(self, index: int, prepared: Prepared) -> dict[str, str]:
        job = self._job
        return {
            "tuneloop.task_id": job.task_id,
            "tuneloop.attempt": self._attempt,
            "tuneloop.method": job.name,
            "tuneloop.method_version": job.method.meta.version,
            "tuneloop.batch_id": job.batch_id,
            "tuneloop.code_version": __version__,
            "tuneloop.seed": str(self._seed),
            "tuneloop.run_index": str(index),
            "tuneloop.start_run_id": self._start.run_id,
            "tuneloop.main_metric": job.main_metric,
            **{f"tuneloop.data.{name}": str(count) for name, count in prepared.counts.items()},
        }

    def _judge(self, record: RunRecord, prepared: Prepared, trained: Trained) -> RunRecord:
        value = trained.metrics.get(self._job.main_metric)
        if value is None or not math.isfinite(value):
            raise Diverged(f"the main metric {self._job.main_metric} of the trained model is {value}")
        reason = self._job.method.ineligible(prepared, trained.metrics)
        outcome: RunOutcome = "ineligible" if reason else "done"
        return replace(record, outcome=outcome, value=float(value), detail=reason)

    def _beats(self, record: RunRecord, best: RunRecord | None, prepared: Prepared) -> bool:
        if record.outcome != "done" or record.value is None or self._job.method.unpromotable(prepared):
            return False
        return self._job.better(record.value, best.value if best else None)

    def _store(self, run_id: str, trained: Trained, report: Path | None) -> None:
        self._observer.progress(stage="storing the model")
        folder = self._job.work_dir / "candidate"
        shutil.rmtree(folder, ignore_errors=True)
        self._job.method.save_model(trained.model, folder)
        self._stored.record(run_id, folder)
        self._tracking.store_model(run_id, folder, report=report)
        shutil.rmtree(folder)

    def _finish(self, record: RunRecord) -> None:
        tags: dict[str, str] = {"tuneloop.outcome": record.outcome}
        if record.detail:
            tags["tuneloop.detail"] = record.detail[:1000]
        if record.verdict:
            # The second is what MLflow shows as the run's description.
            tags |= dict.fromkeys(("tuneloop.verdict", "mlflow.note.content"), record.verdict[:1000])
        self._tracking.set_tags(record.run_id, tags)
        # The record comes last: it makes the run a finished one.
        self._tracking.end_run(record.run_id, _status(record), {RECORD_TAG: record.to_tag()})


class RunContext:
    """What a method's `prepare` and `train` are handed (`methods.contract.Context`)."""

    def __init__(
        self,
        job: Job,
        observer: Observer,
        *,
        trial: optuna.Trial | None = None,
        stream: MetricStream | None = None,
        best: float | None = None,
    ) -> None:
        self.seed = job.method.settings.seed
        self.cache_bytes = job.cache_bytes
        self.course: list[float] = []
        self.last_step = 0
        self._best = best  # the main metric of the best so far, of this run or an earlier one
        self._main_metric = job.main_metric
        self._job = job
        self._observer = observer
        self._trial = trial
        self._stream = stream

    def check(self) -> None:
        """Raises Canceled when the task was."""
        self._observer.check()

    def progress(self, stage: str, *, epoch: int | None = None, epochs: int | None = None) -> None:
        """Tell people what is being done."""
        self._observer.progress(stage=stage, epoch=epoch, epochs=epochs)

    def report(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Track metrics; the n-th report of the main metric is the pruner's step n, whatever the batch size."""
        self.check()
        self.last_step = max(self.last_step, step)
        for name, value in metrics.items():
            if name.endswith("loss") and not math.isfinite(value):
                raise Diverged(f"{name} is {value} at step {step}")
        if self._stream is not None:
            self._stream.log(metrics, step=step)
        if self._main_metric not in metrics or self._trial is None:
            return
        value = metrics[self._main_metric]
        self._trial.report(value, len(self.course))
        self.course.append(value)
        if self._job.better(value, self._best):
            self._best = value
        self._observer.progress(main_metric={"name": self._main_metric, "value": value, "best": self._best})
        if self._trial.should_prune():
            raise Pruned


def end_interrupted_runs(tracking: Tracking, experiment_id: str, task_id: str) -> list[RunInfo]:
    """All runs of a task; those that were interrupted are marked as killed and lose their models."""
    runs = tracking.task_runs(experiment_id, task_id)
    for run in runs:
        record = finished_record(run)
        if run.status == "RUNNING":  # with a record it was only killed before its last line
            tracking.end_run(run.run_id, _status(record) if record else "KILLED")
        if record is None:
            tracking.delete_model(run.run_id)
    return runs


def _status(record: RunRecord) -> Literal["FINISHED", "FAILED"]:
    return "FAILED" if record.outcome in ("diverged", "failed") else "FINISHED"
