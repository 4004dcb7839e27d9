"""Snapshots: written once for a task, kept free of forgotten people, deleted when the task is done."""

from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import sqlalchemy as sa

from tuneloop.catalog.store import Catalog
from tuneloop.database import Database
from tuneloop.feedback.store import FeedbackStore, Session
from tuneloop.methods.snapshot import ITEMS_SCHEMA, SESSIONS_SCHEMA, Snapshot
from tuneloop.tasks.parquet import replacing
from tuneloop.tasks.tables import snapshots, tasks

CHUNK = 1000


class SnapshotStore:
    """The snapshots of all tasks, under one fsspec URL.

    Every erasure raises the `erasures` count of each snapshot in its own transaction. Who writes files clears the
    count only when they show all that it stood for, so a process killed in between leaves a count behind and
    `scrub` does the rest.
    """

    def __init__(self, database: Database, feedback: FeedbackStore, catalog: Catalog, url: str) -> None:
        self._database = database
        self._feedback = feedback
        self._catalog = catalog
        self._url = url

    def write(
        self, task_id: str, batch_id: str, *, earlier: int = 0, seed: int = 0, check: Callable[[], None]
    ) -> Snapshot:
        """The task's snapshot, written if it is not there yet, with up to `earlier` sessions of earlier batches.

        `seed` is that of their sample. `check` is called often and may raise.
        """
        snapshot = Snapshot(f"{self._url}/{task_id}")
        with self._database.write() as connection:
            row = connection.execute(_row(task_id)).one_or_none()
            if row is not None and row.complete:
                return Snapshot(row.url)
            if row is None:
                connection.execute(sa.insert(snapshots).values(task_id=task_id, url=snapshot.url))
            else:
                connection.execute(_update(task_id, erasures=0, url=snapshot.url))
        while True:
            with self._database.read() as connection:
                self._write_files(connection, snapshot, batch_id, earlier=earlier, seed=seed, check=check)
            with self._database.write() as connection:
                row = connection.execute(_row(task_id).with_for_update()).one()
                connection.execute(_update(task_id, erasures=0, complete=row.erasures == 0))
                if row.erasures == 0:  # else somebody was forgotten while it was written
                    return snapshot

    def delete(self, task_id: str) -> None:
        """Delete a snapshot and its files."""
        with self._database.read() as connection:
            row = connection.execute(_row(task_id)).one_or_none()
        if row is None:
            return
        _delete(row.url)
        with self._database.write() as connection:
            connection.execute(sa.delete(snapshots).where(snapshots.c.task_id == task_id))

    def delete_left_over(self) -> None:
        """Delete snapshots of tasks that are done, left by a process that was killed in between."""
        left = (
            sa.select(snapshots.c.task_id)
            .join(tasks, tasks.c.task_id == snapshots.c.task_id)
            .where(tasks.c.status == "done")
        )
        with self._database.read() as connection:
            task_ids = list(connection.scalars(left))
        for task_id in task_ids:
            self.delete(task_id)

    def mark(self, connection: sa.Connection) -> None:
        """Note, in the transaction that forgets sessions, that every snapshot may hold some of them."""
        connection.execute(sa.update(snapshots).values(erasures=snapshots.c.erasures + 1))

    def scrub(self) -> None:
        """Take forgotten sessions out of the stored snapshots."""
        marked = sa.select(snapshots.c.task_id).where(snapshots.c.complete, snapshots.c.erasures > 0)
        with self._database.read() as connection:
            task_ids = list(connection.scalars(marked))
        for task_id in task_ids:
            # The row stays locked, so that of two who scrub the later one sees what the earlier one left.
            with self._database.write() as connection:
                row = connection.execute(_row(task_id).with_for_update()).one_or_none()
                if row is not None and row.complete and row.erasures > 0:
                    snapshot = Snapshot(row.url)
                    self._drop_forgotten(connection, snapshot.sessions_url)
                    if snapshot.has_earlier_sessions:
                        self._drop_forgotten(connection, snapshot.earlier_sessions_url)
                    connection.execute(_update(task_id, erasures=0))

    def _write_files(
        self,
        connection: sa.Connection,
        snapshot: Snapshot,
        batch_id: str,
        *,
        earlier: int,
        seed: int,
        check: Callable[[], None],
    ) -> None:
        _delete(snapshot.url)  # what a killed attempt left may show people who were forgotten since
        shown: set[str] = set()
        chunks = self._feedback.stream_batch(connection, batch_id, chunk=CHUNK)
        count = _write_sessions(snapshot.sessions_url, chunks, shown, check)
        limit = min(earlier, count)
        chunks = self._feedback.stream_earlier(connection, batch_id, limit=limit, seed=seed, chunk=CHUNK)
        if first := next(chunks, None):
            _write_sessions(snapshot.earlier_sessions_url, chain([first], chunks), shown, check)
        ordered = sorted(shown)
        with replacing(snapshot.items_url, ITEMS_SCHEMA) as writer:
            for begin in range(0, len(ordered), CHUNK):
                check()
                contents = self._catalog.contents(ordered[begin : begin + CHUNK], connection)
                rows = [{"object_id": object_id, "text": contents[object_id]} for object_id in sorted(contents)]
                writer.write_table(pa.Table.from_pylist(rows, ITEMS_SCHEMA))

    def _drop_forgotten(self, connection: sa.Connection, url: str) -> None:
        with fsspec.open(url, "rb") as stream, replacing(url, SESSIONS_SCHEMA) as writer:
            for batch in pq.ParquetFile(stream).iter_batches(CHUNK):
                ids = [str(session_id) for session_id in batch.column("session_id").to_pylist()]
                known = self._feedback.existing(connection, ids)
                writer.write_batch(batch.filter(pa.array([session_id in known for session_id in ids], pa.bool_())))


def _write_sessions(url: str, chunks: Iterable[list[Session]], shown: set[str], check: Callable[[], None]) -> int:
    """Write sessions, note the items they show, and count them."""
    count = 0
    with replacing(url, SESSIONS_SCHEMA) as writer:
        for chunk in chunks:
            check()
            writer.write_table(_sessions_table(chunk))
            shown.update(result.object_id for session in chunk for result in session.search_results)
            count += len(chunk)
    return count


def _delete(url: str) -> None:
    filesystem, path = fsspec.core.url_to_fs(url)
    if filesystem.exists(path):
        filesystem.rm(path, recursive=True)


def _sessions_table(sessions: list[Session]) -> pa.Table:
    rows: list[dict[str, Any]] = [
        {
            "session_id": session.session_id,
            "search_query": session.search_query,
            "results": [{"object_id": result.object_id, "rank": result.rank} for result in session.search_results],
            "events": [
                {"object_id": event.object_id, "event_type": event.event_type, "created_at": event.created_at}
                for event in session.events
            ],
            "is_irrelevant": session.is_irrelevant,
            "created_at": session.created_at,
        }
        for session in sessions
    ]
    return pa.Table.from_pylist(rows, SESSIONS_SCHEMA)


def _row(task_id: str) -> "sa.Select[Any]":
    return sa.select(snapshots).where(snapshots.c.task_id == task_id)


def _update(task_id: str, **values: Any) -> sa.Update:
    return sa.update(snapshots).where(snapshots.c.task_id == task_id).values(**values)
