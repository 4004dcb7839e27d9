"""Reading sessions with their events, in the order they arrived."""

import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import sqlalchemy as sa

from tuneloop.feedback.records import Event, Result, Session
from tuneloop.feedback.tables import batches, events, sessions

# 2**32 over the golden ratio squared: multiples of it, modulo 2**32, are spread evenly.
_MULTIPLIER = 1640531527


def read_session(connection: sa.Connection, session_id: str) -> Session | None:
    """The session of this id, if there is one."""
    rows = connection.execute(sa.select(sessions).where(sessions.c.session_id == session_id)).all()
    return next(iter(_with_events(connection, rows)), None)


def read_page(connection: sa.Connection, batch_id: str, *, after: int, limit: int) -> tuple[list[Session], int | None]:
    """Up to `limit` sessions of a batch that follow the sequence number `after`, and the last one's number if there
    are more."""
    query = (
        sa.select(sessions)
        .where(sessions.c.batch_id == batch_id, sessions.c.seq > after)
        .order_by(sessions.c.seq)
        .limit(limit + 1)
    )
    rows = connection.execute(query).all()
    page = rows[:limit]
    return _with_events(connection, page), page[-1].seq if len(rows) > limit else None


def read_pages(connection: sa.Connection, batch_id: str, *, chunk: int) -> Iterator[list[Session]]:
    """All sessions of a batch, `chunk` at a time."""
    after: int | None = 0
    while after is not None:
        page, after = read_page(connection, batch_id, after=after, limit=chunk)
        if page:
            yield page


def read_earlier(
    connection: sa.Connection, batch_id: str, *, limit: int, seed: int, chunk: int
) -> Iterator[list[Session]]:
    """A sample of up to `limit` sessions of the batches before this one, `chunk` at a time.

    Drawn are those with the smallest hashes of their sequence numbers (Fibonacci hashing: Knuth, The Art of Computer
    Programming, volume 3, section 6.4): the same ones each time, but that another takes a forgotten one's place.
    """
    seq: int = connection.execute(sa.select(batches.c.seq).where(batches.c.batch_id == batch_id)).scalar_one()
    shift = zlib.crc32(f"{seed}/{seq}".encode())
    hashed = (sessions.c.seq + shift) % 2**32 * _MULTIPLIER % 2**32
    earlier = sa.select(batches.c.batch_id).where(batches.c.seq < seq)
    query = sa.select(sessions.c.seq).where(sessions.c.batch_id.in_(earlier)).order_by(hashed).limit(limit)
    drawn = sorted(connection.scalars(query))
    for begin in range(0, len(drawn), chunk):
        part = sessions.c.seq.in_(drawn[begin : begin + chunk])
        rows = connection.execute(sa.select(sessions).where(part).order_by(sessions.c.seq)).all()
        yield _with_events(connection, rows)


def _with_events(connection: sa.Connection, rows: Sequence[sa.Row[Any]]) -> list[Session]:
    found: defaultdict[int, list[Event]] = defaultdict(list)
    if rows:
        query = sa.select(events).where(events.c.session_seq.in_([row.seq for row in rows])).order_by(events.c.seq)
        for row in connection.execute(query):
            event = Event(row.event_id, row.object_id, row.event_type, row.created_at, row.meta)
            found[row.session_seq].append(event)
    return [_to_session(row, tuple(found[row.seq])) for row in rows]


def _to_session(row: sa.Row[Any], its_events: tuple[Event, ...]) -> Session:
    return Session(
        session_id=row.session_id,
        search_query=row.search_query,
        search_results=tuple(Result(**result) for result in row.search_results),
        search_meta=row.search_meta,
        user_id=row.user_id,
        created_at=row.created_at,
        arrived_at=row.arrived_at,
        is_irrelevant=row.is_irrelevant,
        batch_id=row.batch_id,
        events=its_events,
    )
