"""The store of what users did: sessions, events, batches."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import islice
from typing import Literal, TypeVar

import sqlalchemy as sa

from tuneloop.database import Database
from tuneloop.errors import Conflict, InvalidInput, NotFound
from tuneloop.feedback import batches as batching
from tuneloop.feedback.importing import ImportReport, Rejected, import_entries
from tuneloop.feedback.ndjson import parse_lines
from tuneloop.feedback.reading import read_earlier, read_page, read_pages, read_session
from tuneloop.feedback.recording import Outcome, add_events, record
from tuneloop.feedback.records import Batch, Entry, Event, NewEvent, NewSession, Result, Session
from tuneloop.feedback.tables import batches, sessions
from tuneloop.feedback.ubi import parse_ubi
from tuneloop.ids import decode_cursor, encode_cursor, to_micros

__all__ = [
    "Batch",
    "Event",
    "FeedbackStore",
    "ImportReport",
    "NewEvent",
    "NewSession",
    "Rejected",
    "Result",
    "Session",
]

T = TypeVar("T")


class FeedbackStore:
    """Sessions and their events, gathered in batches. Whatever a call has returned from is on disk."""

    def __init__(self, database: Database, *, settle_seconds: float = 0) -> None:
        self._database = database
        self._settle_micros = to_micros(settle_seconds)

    # -- writing

    def add_session(self, session: NewSession) -> bool:
        """Store a session in the collecting batch: True when it is new, False when the same was stored before.

        Raises:
            Conflict: a session of this id is stored with other content.
        """
        with self._database.write() as connection:
            [outcome] = record(connection, [Entry(session)])
        if outcome is Outcome.CLASH:
            raise Conflict(f"session {session.session_id!r} is stored with other content: use a new session_id")
        return outcome is Outcome.NEW

    def add_events(self, session_id: str, events: Sequence[NewEvent]) -> int:
        """Add events to a session, all or none, and return how many were new; of one event id the first stays.

        Raises:
            NotFound: there is no such session.
            InvalidInput: an event is about something that the session did not show.
        """
        with self._database.write() as connection:
            return add_events(connection, session_id, events)

    def mark_irrelevant(self, session_id: str) -> None:
        """Note that nothing the session showed was relevant.

        Raises:
            NotFound: there is no such session.
        """
        marked = sa.update(sessions).where(sessions.c.session_id == session_id).values(is_irrelevant=True)
        with self._database.write() as connection:
            if connection.execute(marked).rowcount == 0:
                raise _no_session(session_id)

    def import_sessions(
        self, lines: Iterable[bytes], *, format: Literal["tuneloop", "ubi"] = "tuneloop"
    ) -> ImportReport:
        """Store the good lines and name the bad ones. Streams: no more than a few megabytes are held at a time."""
        entries = parse_lines(lines) if format == "tuneloop" else parse_ubi(lines)
        return import_entries(self._database, entries)

    # -- batches

    def release(self, release_id: str) -> str:
        """Release the collecting batch and return its id; the same `release_id` gives the same batch.

        Raises:
            Conflict: nothing is collected.
        """
        with self._database.write() as connection:
            batch_id = batching.release_once(connection, release_id, self._settle_micros)
        if batch_id is None:
            raise Conflict("nothing is collected: there is no session to release")
        return batch_id

    def release_collecting(self, connection: sa.Connection) -> str | None:
        """Release the collecting batch inside the caller's write transaction; None when nothing is collected."""
        return batching.release(connection, self._settle_micros)

    def batches(self) -> list[Batch]:
        """All batches, the oldest first."""
        with self._database.read() as connection:
            return batching.read_batches(connection)

    def batch(self, batch_id: str, connection: sa.Connection | None = None) -> Batch | None:
        """The batch of this id, if there is one."""
        if connection is None:
            with self._database.read() as connection:
                return self.batch(batch_id, connection)
        return next(iter(batching.read_batches(connection, batches.c.batch_id == batch_id)), None)

    # -- reading

    def get_session(self, session_id: str) -> Session:
        """A session with its events.

        Raises:
            NotFound: there is no such session.
        """
        with self._database.read() as connection:
            session = read_session(connection, session_id)
        if session is None:
            raise _no_session(session_id)
        return session

    def batch_sessions(self, batch_id: str, *, after: str | None, limit: int) -> tuple[list[Session], str | None]:
        """A page of a batch's sessions in the order they arrived, and the cursor of the next page, if there is one.

        Raises:
            NotFound: there is no such batch.
            InvalidInput: `after` is no cursor of an earlier page.
        """
        key = "0" if after is None else decode_cursor(after)
        if not (key.isascii() and key.isdecimal() and len(key) < 19):
            raise InvalidInput("`after` is not a cursor: pass the `next` of an earlier answer", field="after")
        with self._database.read() as connection:
            if self.batch(batch_id, connection) is None:
                raise NotFound(f"there is no batch {batch_id!r}")
            page, last = read_page(connection, batch_id, after=int(key), limit=limit)
        return page, None if last is None else encode_cursor(last)

    def stream_batch(self, connection: sa.Connection, batch_id: str, *, chunk: int = 1000) -> Iterator[list[Session]]:
        """All sessions of a batch in the order they arrived, up to `chunk` at a time."""
        return read_pages(connection, batch_id, chunk=chunk)

    def stream_earlier(
        self, connection: sa.Connection, batch_id: str, *, limit: int, seed: int = 0, chunk: int = 1000
    ) -> Iterator[list[Session]]:
        """A seeded sample of up to `limit` sessions of earlier batches, likewise."""
        return read_earlier(connection, batch_id, limit=limit, seed=seed, chunk=chunk)

    def existing(self, connection: sa.Connection, session_ids: Collection[str]) -> set[str]:
        """Those of the session ids that are stored."""
        found: set[str] = set()
        for ids in _chunks(session_ids):
            found.update(connection.scalars(sa.select(sessions.c.session_id).where(sessions.c.session_id.in_(ids))))
        return found

    # -- forgetting: `Database.scrub` afterwards removes the last bytes

    def forget_session(self, session_id: str, connection: sa.Connection) -> int:
        """Delete a session with its events and return the number of sessions deleted."""
        return _forget(connection, sessions.c.session_id == session_id)

    def forget_user(self, user_id: str, connection: sa.Connection) -> int:
        """Delete the sessions of a user with their events and return how many there were."""
        return _forget(connection, sessions.c.user_id == user_id)

    def forget_before(self, arrived_before: int, connection: sa.Connection) -> int:
        """Delete the sessions that arrived before a time (microseconds) and return how many there were."""
        return _forget(connection, sessions.c.arrived_at < arrived_before)


def _forget(connection: sa.Connection, which: sa.ColumnElement[bool]) -> int:
    # Locked in the order in which an import locks its sessions: neither waits for the other in a circle.
    locked = connection.scalars(sa.select(sessions.c.seq).where(which).order_by(sessions.c.seq).with_for_update()).all()
    for seqs in _chunks(locked):
        connection.execute(sa.delete(sessions).where(sessions.c.seq.in_(seqs)))
    return len(locked)


def _chunks(values: Iterable[T], size: int = 1000) -> Iterator[list[T]]:
    """The values in lists, short enough for one statement."""
    iterator = iter(values)
    while chunk := list(islice(iterator, size)):
        yield chunk


def _no_session(session_id: str) -> NotFound:
    return NotFound(f"there is no session {session_id!r}")
