"""Batches: which one is collecting, and how it is released, whoever else is writing at the moment.

On SQLite a write transaction is alone. On PostgreSQL those who add sessions or events share an advisory lock that a
release takes for itself: it waits for the writers that have begun, and those that come later wait for it. Such a
lock is granted in the order asked for, so a steady stream of writers cannot keep a release waiting, as it could with
share locks on the batch's row. Whoever needs it takes it before any row, so that nobody waits in a circle.
"""

from collections.abc import Mapping

import sqlalchemy as sa

from tuneloop.database import insert
from tuneloop.feedback.records import Batch
from tuneloop.feedback.tables import batches, sessions
from tuneloop.ids import new_id, now_micros

_BATCH_LOCK = 7164006
_IMPORT_LOCK = 7164007


def share(connection: sa.Connection) -> None:
    """Until the transaction ends, no batch is released. Side by side with others that do the same."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock_shared(_BATCH_LOCK)))


def take_turns_importing(connection: sa.Connection) -> None:
    """Until the transaction ends, nobody else imports: two that store the same sessions in another order would block
    each other."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_IMPORT_LOCK)))


def collecting(connection: sa.Connection) -> str:
    """The id of the collecting batch, which is made when there is none. The caller holds the lock."""
    query = sa.select(batches.c.batch_id).where(batches.c.status == "collecting")
    while (batch_id := connection.scalar(query)) is None:
        new = {"batch_id": new_id(), "status": "collecting", "created_at": now_micros()}
        connection.execute(insert(connection, batches).values(new).on_conflict_do_nothing())
    return str(batch_id)


def release(connection: sa.Connection, settle_micros: int) -> str | None:
    """Release the collecting batch, and let the next one collect.

    Sessions that arrived less than `settle_micros` ago move to the next batch. Returns the batch's id; None, and
    nothing changed, when no session is settled.
    """
    _alone(connection)
    now = now_micros()
    # Without a settling time a clock that was set back must not keep a session from its batch.
    settled = sessions.c.arrived_at <= now - settle_micros if settle_micros else sa.true()
    query = sa.select(batches.c.batch_id).where(
        batches.c.status == "collecting",
        sa.exists().where(sessions.c.batch_id == batches.c.batch_id, settled),
    )
    batch_id: str | None = connection.scalar(query)
    if batch_id is None:
        return None
    released = sa.update(batches).where(batches.c.batch_id == batch_id)
    connection.execute(released.values(status="released", released_at=now))
    unsettled = sa.update(sessions).where(sessions.c.batch_id == batch_id, sa.not_(settled))
    connection.execute(unsettled.values(batch_id=collecting(connection)))
    return batch_id


def release_once(connection: sa.Connection, release_id: str, settle_micros: int) -> str | None:
    """As `release`, but a release id that was used before gives the batch of that time."""
    _alone(connection)
    earlier: str | None = connection.scalar(sa.select(batches.c.batch_id).where(batches.c.release_id == release_id))
    if earlier is not None:
        return earlier
    batch_id = release(connection, settle_micros)
    if batch_id is not None:
        connection.execute(sa.update(batches).where(batches.c.batch_id == batch_id).values(release_id=release_id))
    return batch_id


def count_late(connection: sa.Connection, events: Mapping[str, int]) -> None:
    """Add to the late events of each batch."""
    for batch_id in sorted(events):  # always in the same order, so that no two writers block each other
        late = batches.c.late_events + events[batch_id]
        connection.execute(sa.update(batches).where(batches.c.batch_id == batch_id).values(late_events=late))


def read_batches(connection: sa.Connection, *which: sa.ColumnElement[bool]) -> list[Batch]:
    """The batches for which all of the conditions hold, the oldest first."""
    count = sa.select(sa.func.count()).where(sessions.c.batch_id == batches.c.batch_id).scalar_subquery()
    query = sa.select(
        batches.c.batch_id,
        batches.c.status,
        count.label("sessions"),
        batches.c.late_events,
        batches.c.created_at,
        batches.c.released_at,
    )
    return [Batch(**row) for row in connection.execute(query.where(*which).order_by(batches.c.seq)).mappings()]


def _alone(connection: sa.Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_BATCH_LOCK)))
