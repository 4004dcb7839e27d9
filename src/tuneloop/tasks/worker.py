"""The worker process: takes tasks from the durable queue, takes over from workers that died, keeps house."""

import os
import shutil
import signal
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any, TypeVar

import structlog
from dbos import DBOS, DBOSConfig, SetEnqueueOptions, SetWorkflowID
from sqlalchemy.exc import SQLAlchemyError

from tuneloop.catalog.store import Catalog
from tuneloop.database import Database
from tuneloop.feedback.store import FeedbackStore
from tuneloop.ids import now_micros
from tuneloop.methods.registry import discover
from tuneloop.models.registry import ModelRegistry
from tuneloop.models.store import StoredModels
from tuneloop.relational.outputs import Outputs
from tuneloop.relational.sources import Sources
from tuneloop.settings import Settings
from tuneloop.tasks import workers
from tuneloop.tasks.embed_items import EmbedItems
from tuneloop.tasks.erasure import Erasure
from tuneloop.tasks.fine_tuning import FineTuning
from tuneloop.tasks.predict import Predict
from tuneloop.tasks.queue_format import JsonSerializer
from tuneloop.tasks.relational import Relational
from tuneloop.tasks.snapshots import SnapshotStore
from tuneloop.tasks.store import EMBED_ITEMS, PREDICT, RELATIONAL, TaskRecord, TaskStore

log = structlog.get_logger(__name__)
T = TypeVar("T")

QUEUE = "tasks"
# Workflows written by one version are only taken up by workers of the same; raised when their steps change.
WORKFLOW_VERSION = "1"
LOOP_SECONDS = 1.0
HOUSEKEEPING_SECONDS = 60


def run(settings: Settings) -> None:
    """Work on tasks until SIGTERM or SIGINT. What is interrupted goes on in the next worker."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    worker = Worker(settings)
    worker.start()
    while not stop.wait(LOOP_SECONDS):
        worker.look_around()
    worker.clear_work_dir()
    # Not a tidy end: a training thread cannot be stopped from outside, and being killed is what all is made for.
    os._exit(0)


class Worker:
    """One worker process."""

    def __init__(self, settings: Settings) -> None:
        self._id = uuid.uuid4().hex
        self._settings = settings
        self._database = Database(settings.url)
        self._database.migrate()
        feedback = FeedbackStore(self._database, settle_seconds=settings.session_settle_seconds)
        catalog = Catalog(self._database)
        self._snapshots = SnapshotStore(self._database, feedback, catalog, settings.snapshots)
        self._erasure = Erasure(self._database, feedback, self._snapshots)
        self._store = TaskStore(self._database, feedback)
        registry = discover(settings.plugins)
        for failed in registry.failed:
            log.error("plugin failed", source=failed.source, error=failed.error)
        self._fine_tuning = FineTuning(
            settings,
            store=self._store,
            snapshots=self._snapshots,
            stored=StoredModels(self._database),
            registry=registry,
            worker_id=self._id,
        )
        models = ModelRegistry(settings.tracking_uri, self._database, retry_seconds=settings.mlflow_retry_seconds)
        sources = Sources(roots=settings.roots, connections=settings.connections, uploads=settings.uploads_dir)
        self._relational = Relational(
            settings,
            store=self._store,
            stored=StoredModels(self._database),
            sources=sources,
            worker_id=self._id,
        )
        self._embed_items = EmbedItems(
            settings,
            store=self._store,
            catalog=catalog,
            registry=models,
            worker_id=self._id,
        )
        self._predict = Predict(
            settings,
            store=self._store,
            registry=models,
            sources=sources,
            outputs=Outputs(
                settings.predictions_dir,
                roots=settings.roots,
                connections=settings.connections,
                writable=settings.writable,
                closed=[settings.data_dir],
            ),
            worker_id=self._id,
        )
        self._enqueued: set[str] = set()
        self._last: dict[str, float] = {}
        self._workflow: Callable[[str, int], None] | None = None

    def start(self) -> None:
        """Join the workers and begin to take tasks."""
        with self._database.write() as connection:
            workers.register(connection, self._id)
        config: DBOSConfig = {
            "name": "tuneloop",
            "system_database_url": self._settings.queue_url,
            "executor_id": self._id,
            "application_version": WORKFLOW_VERSION,
            "serializer": JsonSerializer(),
            "log_level": "WARNING",
        }
        DBOS(config=config)

        @DBOS.workflow(name="task", max_recovery_attempts=None)
        def workflow(task_id: str, attempt: int) -> None:
            self._work(task_id, attempt)

        self._workflow = workflow
        DBOS.launch()
        # Tasks of one method run one at a time, whichever workers there are.
        DBOS.register_queue(QUEUE, partition_concurrency=1, polling_interval_sec=0.5)
        log.info("worker ready", worker_id=self._id)

    def look_around(self) -> None:
        """One turn of the loop: give a sign of life, hand waiting tasks to the queue, care for what is left over."""
        try:
            if self._due("heartbeat", workers.HEARTBEAT_SECONDS):
                self._heartbeat()
                self._take_over()
            self._enqueue_waiting()
            if self._due("housekeeping", HOUSEKEEPING_SECONDS):
                self._keep_house()
        except Exception:  # the database may be away for a while
            log.exception("the worker's loop failed; going on")

    def clear_work_dir(self) -> None:
        """Delete the local copies of this worker."""
        shutil.rmtree(self._settings.work_dir / self._id, ignore_errors=True)

    def _due(self, what: str, every: float) -> bool:
        now = time.monotonic()
        if what in self._last and now - self._last[what] < every:
            return False
        self._last[what] = now
        return True

    def _heartbeat(self) -> None:
        with self._database.write() as connection:
            alive = workers.heartbeat(connection, self._id)
        if not alive:  # another worker took this one for dead and has its tasks now: two must not go on
            log.error("taken for dead by another worker; ending")
            os._exit(70)

    def _take_over(self) -> None:
        """Put the tasks of dead workers back into the queue. Their rows go last, so that a crash repeats it."""
        with self._database.read() as connection:
            suspects = workers.dead_workers(connection)
        for worker_id in suspects:
            DBOS._recover_pending_workflows([worker_id])  # puts back only what that worker still holds
            shutil.rmtree(self._settings.work_dir / worker_id, ignore_errors=True)
            with self._database.write() as connection:
                workers.remove(connection, worker_id)
            log.warning("took over from a dead worker", worker_id=worker_id)

    def _enqueue_waiting(self) -> None:
        # Only the first of each line goes into the queue, which does not tell apart what comes in one millisecond.
        first: dict[str, TaskRecord] = {}
        for task in self._store.waiting():
            first.setdefault(task.method or task.kind, task)
        for line, task in first.items():
            workflow_id = f"{task.id}-{task.attempt}"
            if workflow_id in self._enqueued:
                continue
            assert self._workflow is not None
            with SetWorkflowID(workflow_id), SetEnqueueOptions(queue_partition_key=line):
                DBOS.enqueue_workflow(QUEUE, self._workflow, task.id, task.attempt)
            self._enqueued.add(workflow_id)

    def _work(self, task_id: str, attempt: int) -> None:
        while True:
            try:
                task = self._store.begin(task_id, attempt)
                break
            except SQLAlchemyError:
                log.warning("the database does not answer; trying again", task_id=task_id, exc_info=True)
                time.sleep(LOOP_SECONDS)
        if task is None:
            return
        log.info("task begins", task_id=task_id, kind=task.kind, attempt=attempt, method=task.method)
        if task.kind == EMBED_ITEMS:
            self._embed_items.work(task)
        elif task.kind == PREDICT:
            self._predict.work(task)
        elif task.kind == RELATIONAL:
            self._relational.work(task, _durable)
        else:
            self._fine_tuning.work(task, _durable)

    def _keep_house(self) -> None:
        self._snapshots.scrub()
        self._database.scrub()
        self._snapshots.delete_left_over()
        if self._settings.retention_days is not None and self._due("retention", 600):
            self._erasure.forget_before(now_micros() - round(self._settings.retention_days * 86_400_000_000))


def _durable(name: str, step: Callable[[], T]) -> Any:
    return DBOS.run_step({"name": name}, step)
