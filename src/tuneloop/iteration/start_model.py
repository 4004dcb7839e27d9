"""Step 1: the model that an iteration begins with and must beat."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuneloop.iteration.job import Job
from tuneloop.iteration.record import RunRecord
from tuneloop.models.store import StoredModels
from tuneloop.tracking import RunInfo, Tracking

RECORD_TAG = "tuneloop.record"


@dataclass(frozen=True)
class StartModel:
    """Where the start model lies, and the settings that led to it when an iteration made it."""

    run_id: str
    params: dict[str, Any] | None  # None for an initial model

    @property
    def is_initial(self) -> bool:
        """Whether no iteration of the method went before."""
        return self.params is None


def choose_start_model(job: Job, tracking: Tracking, stored: StoredModels) -> StartModel:
    """The model of the method's most recent iteration, or its initial model, uploaded if it is not there yet."""
    latest = tracking.latest_iteration(job.name)
    if latest is not None:
        return StartModel(latest.best.run_id, dict(RunRecord.from_tag(latest.best.tags[RECORD_TAG]).params))
    job.method.upload_initial_model(_InitialModels(job, tracking, stored))
    run_id = tracking.find_initial(job.method.initial_model_hash())
    if run_id is None:
        raise RuntimeError(f"upload_initial_model of {job.name!r} stored nothing under its initial_model_hash()")
    return StartModel(run_id, None)


def download_start_model(job: Job, start: StartModel, tracking: Tracking, stored: StoredModels) -> Path:
    """The start model's folder in the job's work folder, downloaded once."""
    folder = job.work_dir / "start_model"
    if not folder.exists():
        partial = job.work_dir / "start_model.part"
        shutil.rmtree(partial, ignore_errors=True)
        stored.verify(start.run_id, tracking.download_model(start.run_id, partial))
        partial.rename(folder)
    return folder


def finished_record(run: RunInfo) -> RunRecord | None:
    """What a run of an iteration came to; None when it was interrupted."""
    tag = run.tags.get(RECORD_TAG)
    return RunRecord.from_tag(tag) if tag else None


class _InitialModels:
    """The store that `Method.upload_initial_model` is handed: initial models are runs of `iteration / initial`."""

    def __init__(self, job: Job, tracking: Tracking, stored: StoredModels) -> None:
        self._task_id = job.task_id
        self._folder = job.work_dir / "initial"
        self._tracking = tracking
        self._stored = stored

    def has(self, source_hash: str) -> bool:
        """Whether a model of this source is stored."""
        return self._tracking.find_initial(source_hash) is not None

    def put(self, source: str, source_hash: str, save: Callable[[Path], None]) -> None:
        """Store the model that `save` writes."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.parent.mkdir(parents=True, exist_ok=True)
        save(self._folder)

        def record(run_id: str) -> None:
            self._stored.record(run_id, self._folder)

        self._tracking.put_initial(source, source_hash, self._folder, task_id=self._task_id, before_upload=record)
        shutil.rmtree(self._folder)
