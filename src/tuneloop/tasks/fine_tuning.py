"""Work on a fine-tuning task: its snapshot, its iteration, its end."""

from typing import Any

import structlog

from tuneloop.errors import TuneloopError
from tuneloop.iteration.iterate import iterate
from tuneloop.iteration.job import Durable, Job
from tuneloop.iteration.run import end_interrupted_runs
from tuneloop.methods.registry import Registry
from tuneloop.methods.snapshot import Snapshot
from tuneloop.models.store import StoredModels
from tuneloop.settings import Settings
from tuneloop.tasks.attempt import ending
from tuneloop.tasks.follower import Follower
from tuneloop.tasks.snapshots import SnapshotStore
from tuneloop.tasks.store import TaskRecord, TaskStore
from tuneloop.tracking import Tracking

log = structlog.get_logger(__name__)


class FineTuning:
    """Does tasks of the kind `fine_tuning`."""

    def __init__(
        self,
        settings: Settings,
        *,
        store: TaskStore,
        snapshots: SnapshotStore,
        stored: StoredModels,
        registry: Registry,
        worker_id: str,
    ) -> None:
        self._settings = settings
        self._store = store
        self._snapshots = snapshots
        self._stored = stored
        self._registry = registry
        self._work_dir = settings.work_dir / worker_id

    def work(self, task: TaskRecord, durable: Durable) -> None:
        """Do an attempt at a task, or go on with it; whatever happens ends up in the task's record."""
        with Follower(self._store, task.id, task.attempt) as follower:
            end = ending(task.id, lambda: self._attempt(task, follower, durable))
        if end["status"] != "done":
            self._end_interrupted_runs(task, retry_seconds=2)
        self._store.update(task.id, task.attempt, **end)
        log.info("task ended", task_id=task.id, **end)
        if end["status"] != "done":  # for certain, however long MLflow is away; the next task of the method waits
            durable(
                "end interrupted runs",
                lambda: self._end_interrupted_runs(task, retry_seconds=self._settings.mlflow_retry_seconds),
            )

    def _attempt(self, task: TaskRecord, follower: Follower, durable: Durable) -> dict[str, Any]:
        assert task.method is not None and task.batch_id is not None
        batch_id = task.batch_id
        kind = self._registry.get(task.method)
        method = kind(kind.settings_schema(**(task.settings or {})))
        follower.progress(stage="snapshot")
        earlier, seed = method.earlier_sessions(), method.settings.seed
        url = durable(
            "snapshot",
            lambda: self._snapshots.write(task.id, batch_id, earlier=earlier, seed=seed, check=follower.check).url,
        )
        job = Job(
            task.id,
            task.attempt,
            batch_id,
            method,
            Snapshot(url),
            self._work_dir / task.id,
            int(self._settings.cache_max_gb * 2**30),
        )
        retry_seconds = self._settings.mlflow_retry_seconds
        tracking = Tracking(self._settings.tracking_uri, retry_seconds=retry_seconds, check=follower.check)
        outcome = iterate(job, tracking=tracking, stored=self._stored, observer=follower, durable=durable)
        self._snapshots.delete(task.id)
        return {"best_run_id": outcome.best_run_id, "detail": outcome.detail}

    def _end_interrupted_runs(self, task: TaskRecord, *, retry_seconds: float) -> None:
        experiment_id = self._store.get(task.id).experiment_id
        if experiment_id is None:
            return
        try:
            tracking = Tracking(self._settings.tracking_uri, retry_seconds=retry_seconds)
            end_interrupted_runs(tracking, experiment_id, task.id)
        except TuneloopError as error:
            log.warning("runs may still show as running in MLflow", task_id=task.id, reason=error.detail)
