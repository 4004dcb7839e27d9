"""Forgetting: sessions leave the database and every stored snapshot."""

from collections.abc import Callable

import sqlalchemy as sa

from tuneloop.database import Database
from tuneloop.feedback.store import FeedbackStore
from tuneloop.tasks.snapshots import SnapshotStore


class Erasure:
    """Removes sessions wherever they are stored.

    When the process is killed half-way, the rows are gone or not at all; snapshots that still show them are marked,
    and a worker finishes them.
    """

    def __init__(self, database: Database, feedback: FeedbackStore, snapshots: SnapshotStore) -> None:
        self._database = database
        self._feedback = feedback
        self._snapshots = snapshots

    def forget_session(self, session_id: str) -> int:
        """Forget one session with its events; the number forgotten, 0 or 1."""
        return self._forget(lambda connection: self._feedback.forget_session(session_id, connection))

    def forget_user(self, user_id: str) -> int:
        """Forget every session of a user; the number forgotten."""
        return self._forget(lambda connection: self._feedback.forget_user(user_id, connection))

    def forget_before(self, arrived_before: int) -> int:
        """Forget the sessions that arrived before a moment (microseconds); the number forgotten."""
        return self._forget(lambda connection: self._feedback.forget_before(arrived_before, connection))

    def _forget(self, forget: Callable[[sa.Connection], int]) -> int:
        with self._database.write() as connection:
            forgotten = forget(connection)
            if forgotten:
                self._snapshots.mark(connection)
        self._snapshots.scrub()
        if forgotten:
            self._database.scrub()
        return forgotten
