"""The records of asked-for work. Storing a task asks for it; a worker finds it there."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from tuneloop.database import Database
from tuneloop.errors import Conflict, NotFound
from tuneloop.feedback.store import FeedbackStore
from tuneloop.ids import new_id, now_micros
from tuneloop.tasks import log
from tuneloop.tasks.tables import tasks
from tuneloop.tasks.workers import live_workers

FINE_TUNING = "fine_tuning"
EMBED_ITEMS = "embed_items"
RELATIONAL = "relational"
PREDICT = "predict"
STATUSES = ("pending", "processing", "done", "canceled", "error")
NOTHING_COLLECTED = "nothing was collected: there is no session to learn from since the last release"


@dataclass(frozen=True)
class TaskRecord:
    """A task as it stands. Times are in microseconds."""

    id: str
    kind: str
    method: str | None
    status: str
    created_at: int
    updated_at: int
    attempt: int
    batch_id: str | None = None
    metadata: dict[str, Any] | None = None
    settings: dict[str, Any] | None = None
    dataset: dict[str, Any] | None = None
    idempotency_key: str | None = None
    progress: dict[str, Any] | None = None
    detail: str | None = None
    experiment_id: str | None = None
    start_run_id: str | None = None
    best_run_id: str | None = None
    output: str | None = None


class TaskStore:
    """Task records in the database."""

    def __init__(self, database: Database, feedback: FeedbackStore) -> None:
        self._database = database
        self._feedback = feedback

    def create_fine_tuning(
        self,
        *,
        method: str,
        settings: Mapping[str, Any],
        batch_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
    ) -> TaskRecord:
        """Ask for an iteration of a method. The caller has checked the method's name and the settings.

        Without `batch_id` the collecting batch is released in the same transaction; with nothing collected the task
        is stored with the status `error`.

        Raises:
            NotFound: no such batch.
            Conflict: the batch is still collecting, or another request used the idempotency key.
        """
        request = {"method": method, "settings": settings, "batch_id": batch_id, "metadata": metadata}
        return self._create(
            request,
            lambda connection: {
                "kind": FINE_TUNING,
                "method": method,
                "metadata": metadata,
                "settings": settings,
                **self._batch(connection, batch_id),
            },
            idempotency_key,
        )

    def create_embed_items(
        self, *, asked: Mapping[str, Any], settings: Mapping[str, Any], idempotency_key: str | None = None
    ) -> TaskRecord:
        """Ask for the embeddings of all items.

        Args:
            asked: the request as it came, which the same idempotency key must come with; an alias in it may move.
            settings: what to do: `model`, `version` (a number), and `output`, when a file was named.
            idempotency_key: the same key with the same request is the same task.

        Raises:
            Conflict: another request used the idempotency key.
        """
        request = {"kind": EMBED_ITEMS, **asked}
        return self._create(request, lambda _: {"kind": EMBED_ITEMS, "settings": dict(settings)}, idempotency_key)

    def create_relational(
        self,
        *,
        dataset: Mapping[str, Any],
        settings: Mapping[str, Any],
        metadata: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> TaskRecord:
        """Ask for a model of a dataset's task.

        Args:
            dataset: its document.
            settings: of the search, checked.
            metadata: the caller's own.
            idempotency_key: the same key with the same request is the same task.
            check: called before a new task is stored; what it raises is passed on.

        Raises:
            Conflict: another request used the idempotency key.
        """
        row = {"kind": RELATIONAL, "dataset": dict(dataset), "settings": dict(settings), "metadata": metadata}
        return self._create(row, lambda _: row, idempotency_key, check)

    def create_predict(
        self,
        *,
        asked: Mapping[str, Any],
        settings: Mapping[str, Any],
        dataset: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> TaskRecord:
        """Ask for the predictions of a table of entities.

        Args:
            asked: the request as it came, which the same idempotency key must come with; an alias in it may move.
            settings: what to do: `model`, `version` (a number), `source`, `output`, `overwrite`, `embeddings`.
            dataset: the document of the tables to look at, instead of those recorded with the model.
            idempotency_key: the same key with the same request is the same task.
            check: called before a new task is stored; what it raises is passed on.

        Raises:
            Conflict: another request used the idempotency key.
        """
        row = {"kind": PREDICT, "settings": dict(settings), "dataset": None if dataset is None else dict(dataset)}
        return self._create({"kind": PREDICT, **asked}, lambda _: row, idempotency_key, check)

    def get(self, task_id: str, *, kind: str | None = None) -> TaskRecord:
        """One task.

        Raises:
            NotFound: there is none with this id (and kind).
        """
        with self._database.read() as connection:
            return _one(connection, task_id, kind)

    def list(
        self, *, kind: str | None = None, status: str | None = None, skip: int = 0, limit: int = 100
    ) -> list[TaskRecord]:
        """Tasks, newest first."""
        query = sa.select(tasks).order_by(tasks.c.seq.desc()).offset(skip).limit(limit)
        if kind is not None:
            query = query.where(tasks.c.kind == kind)
        if status is not None:
            query = query.where(tasks.c.status == status)
        with self._database.read() as connection:
            return [_record(row) for row in connection.execute(query)]

    def cancel(self, task_id: str, *, kind: str | None = None) -> TaskRecord:
        """Stop a task: at once while it waits, within seconds while it is worked on.

        Raises:
            NotFound: no such task.
            Conflict: it is over already.
        """
        with self._database.write() as connection:
            record = _one(connection, task_id, kind, lock=True)
            if record.status in ("done", "error"):
                raise Conflict(f"task {task_id} is over already: its status is {record.status}")
            if record.status == "pending":
                _update(connection, task_id, status="canceled", cancel_requested=True, detail="canceled")
            elif record.status == "processing":
                _update(connection, task_id, cancel_requested=True)
            return _one(connection, task_id)

    def restart(self, task_id: str, *, kind: str | None = None) -> TaskRecord:
        """Ask again for a task that was canceled or failed; its finished runs are kept.

        Raises:
            NotFound: no such task.
            Conflict: it is neither canceled nor failed.
        """
        with self._database.write() as connection:
            record = _one(connection, task_id, kind, lock=True)
            if record.status not in ("canceled", "error"):
                raise Conflict(f"only canceled and failed tasks can be restarted; task {task_id} is {record.status}")
            again: dict[str, Any] = {"status": "pending", "detail": None}
            if record.kind == FINE_TUNING:
                again |= self._batch(connection, record.batch_id)
            _update(
                connection,
                task_id,
                **again,
                attempt=record.attempt + 1,
                asked_at=now_micros(),
                cancel_requested=False,
                progress=None,
            )
            return _one(connection, task_id)

    def counts(self) -> dict[str, int]:
        """The number of tasks in each status."""
        query = sa.select(tasks.c.status, sa.func.count()).group_by(tasks.c.status)
        with self._database.read() as connection:
            found = {str(row[0]): int(row[1]) for row in connection.execute(query)}
        return {status: found.get(status, 0) for status in STATUSES}

    def live_workers(self) -> int:
        """The number of workers that gave a sign of life lately."""
        with self._database.read() as connection:
            return live_workers(connection)

    def log(self, task_id: str, *, after: str | None = None, limit: int = 1000) -> tuple[Sequence[str], str]:
        """What a task printed: lines after a cursor, or from the first, and the cursor to go on with.

        Once a task is over and a look after that finds no line, there will be none.

        Raises:
            NotFound: no such task.
            InvalidInput: no cursor that this service gave.
        """
        with self._database.read() as connection:
            _one(connection, task_id)
            return log.read(connection, task_id, after, limit)

    # -- what the worker does

    def waiting(self) -> Sequence[TaskRecord]:
        """The tasks that nobody works on, in the order they were asked for."""
        query = sa.select(tasks).where(tasks.c.status == "pending").order_by(tasks.c.asked_at, tasks.c.seq)
        with self._database.read() as connection:
            return [_record(row) for row in connection.execute(query)]

    def begin(self, task_id: str, attempt: int) -> TaskRecord | None:
        """Take up an attempt at a task, or go on with it; None when it is not to be done any more."""
        with self._database.write() as connection:
            found = connection.execute(
                sa.update(tasks)
                .where(
                    tasks.c.task_id == task_id,
                    tasks.c.attempt == attempt,
                    tasks.c.status.in_(("pending", "processing")),
                )
                .values(status="processing", updated_at=now_micros())
            )
            return _one(connection, task_id) if found.rowcount else None

    def update(self, task_id: str, attempt: int, **values: Any) -> None:
        """Note something about a task that is worked on; a later attempt's row is left alone."""
        with self._database.write() as connection:
            connection.execute(
                sa.update(tasks)
                .where(tasks.c.task_id == task_id, tasks.c.attempt == attempt, tasks.c.status == "processing")
                .values(**values, updated_at=now_micros())
            )

    def append_log(self, task_id: str, attempt: int, lines: Sequence[str]) -> None:
        """Add lines to what a task printed; those of an earlier attempt are left out."""
        with self._database.write() as connection:
            log.append(connection, task_id, attempt, lines)

    def cancel_requested(self, task_id: str, attempt: int) -> bool:
        """Whether an attempt at a task is to stop."""
        query = sa.select(tasks.c.attempt, tasks.c.cancel_requested).where(tasks.c.task_id == task_id)
        with self._database.read() as connection:
            row = connection.execute(query).one()
        return bool(row.cancel_requested) or row.attempt != attempt

    def _create(
        self,
        request: Mapping[str, Any],
        fill: Callable[[sa.Connection], Mapping[str, Any]],
        idempotency_key: str | None,
        check: Callable[[], None] = lambda: None,
    ) -> TaskRecord:
        """The task that a request made, now or before; `fill` gives the fields of its own."""
        digest = hashlib.sha256(json.dumps(request, sort_keys=True, default=str).encode()).hexdigest()
        with self._database.read() as connection:
            if known := self._by_key(connection, idempotency_key, digest):
                return known
        check()  # may take long, and then no transaction is open
        try:
            with self._database.write() as connection:
                if known := self._by_key(connection, idempotency_key, digest):
                    return known
                now = now_micros()
                row: dict[str, Any] = {
                    "task_id": new_id(),
                    "status": "pending",
                    "created_at": now,
                    "updated_at": now,
                    "asked_at": now,
                    "idempotency_key": idempotency_key,
                    "request_hash": digest,
                    **fill(connection),
                }
                connection.execute(sa.insert(tasks).values(row))
                return _one(connection, row["task_id"])
        except IntegrityError:  # an identical request at the same moment came first
            with self._database.read() as connection:
                if known := self._by_key(connection, idempotency_key, digest):
                    return known
            raise

    def _by_key(self, connection: sa.Connection, key: str | None, digest: str) -> TaskRecord | None:
        if key is None:
            return None
        row = connection.execute(sa.select(tasks).where(tasks.c.idempotency_key == key)).one_or_none()
        if row is not None and row.request_hash != digest:
            raise Conflict("another request was made with this idempotency_key: use a new one for a new request")
        return _record(row) if row is not None else None

    def _batch(self, connection: sa.Connection, batch_id: str | None) -> dict[str, Any]:
        if batch_id is None:
            released = self._feedback.release_collecting(connection)
            return {"batch_id": released} if released else {"status": "error", "detail": NOTHING_COLLECTED}
        batch = self._feedback.batch(batch_id, connection)
        if batch is None:
            raise NotFound(f"there is no batch {batch_id}")
        if batch.status != "released":
            raise Conflict(f"batch {batch_id} is still collecting: release it first, or leave batch_id out")
        return {"batch_id": batch_id}


def _one(connection: sa.Connection, task_id: str, kind: str | None = None, *, lock: bool = False) -> TaskRecord:
    query = sa.select(tasks).where(tasks.c.task_id == task_id)
    if kind is not None:
        query = query.where(tasks.c.kind == kind)
    row = connection.execute(query.with_for_update() if lock else query).one_or_none()
    if row is None:
        raise NotFound(f"there is no task {task_id}")
    return _record(row)


def _update(connection: sa.Connection, task_id: str, **values: Any) -> None:
    connection.execute(sa.update(tasks).where(tasks.c.task_id == task_id).values(**values, updated_at=now_micros()))


def _record(row: sa.Row[Any]) -> TaskRecord:
    values = row._asdict()
    names = TaskRecord.__dataclass_fields__.keys() - {"id"}
    return TaskRecord(id=values["task_id"], **{name: values[name] for name in names})
