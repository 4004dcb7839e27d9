"""Writing down sessions and events, each once, inside the caller's write transaction."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from enum import Enum
from typing import Any

import sqlalchemy as sa

from tuneloop.database import insert
from tuneloop.errors import InvalidInput, NotFound
from tuneloop.feedback.batches import collecting, count_late, share
from tuneloop.feedback.records import Entry, NewEvent
from tuneloop.feedback.tables import events, sessions
from tuneloop.ids import now_micros

# A stored session as far as writing needs to know it: a row of these columns.
Row = Any
_MARKS = (sessions.c.session_id, sessions.c.seq, sessions.c.request_hash, sessions.c.is_irrelevant, sessions.c.batch_id)


class Outcome(Enum):
    """What became of an entry; the value says it in words."""

    NEW = "stored"
    ADDED = "events or a verdict were added to a stored session"
    SAME = "all of it was stored before"
    CLASH = "this session_id is stored with other content"
    UNSHOWN = "the stored session did not show all the objects that these events are about"
    UNKNOWN = "no query of this id is stored or imported with these events, and they do not tell the query themselves"


def record(connection: sa.Connection, entries: Sequence[Entry]) -> list[Outcome]:
    """Store what is new of the entries, in their order, and say what became of each."""
    share(connection)
    batch_id = collecting(connection)
    hashes = {id(entry): entry.session.request_hash() for entry in entries}
    rows, new = _find_or_store(connection, entries, hashes, batch_id)
    shown = _shown(connection, [entry.session.session_id for entry in entries if entry.inferred])
    outcomes = []
    for entry in entries:
        session_id = entry.session.session_id
        row = rows.get(session_id)
        if row is None:
            outcomes.append(Outcome.UNKNOWN)
        elif row.request_hash == hashes[id(entry)]:
            outcomes.append(Outcome.NEW if session_id in new else Outcome.SAME)
            new.discard(session_id)  # further down it is a repeat
        elif not entry.inferred:
            outcomes.append(Outcome.CLASH)
        else:
            known = all(event.object_id in shown[session_id] for event in entry.events)
            outcomes.append(Outcome.SAME if known else Outcome.UNSHOWN)
    kept = [entry for entry, outcome in zip(entries, outcomes, strict=True) if outcome in (Outcome.NEW, Outcome.SAME)]
    pairs = [(rows[entry.session.session_id], event) for entry in kept for event in entry.events]
    added: set[tuple[int, str | None]] = {*insert_events(connection, batch_id, pairs)}
    verdicts = [rows[entry.session.session_id] for entry in kept if entry.is_irrelevant]
    added.update((seq, None) for seq in _mark_irrelevant(connection, [r.seq for r in verdicts if not r.is_irrelevant]))
    for place, (entry, outcome) in enumerate(zip(entries, outcomes, strict=True)):
        if outcome in (Outcome.NEW, Outcome.SAME):
            brought = added & _brought(rows[entry.session.session_id].seq, entry)
            added -= brought  # further down it is a repeat
            if brought and outcome is Outcome.SAME:
                outcomes[place] = Outcome.ADDED
    return outcomes


def _brought(seq: int, entry: Entry) -> set[tuple[int, str | None]]:
    """What an entry may add to its session: its events by id, and the verdict as None."""
    verdict: set[tuple[int, str | None]] = {(seq, None)} if entry.is_irrelevant else set()
    return verdict | {(seq, event.event_id) for event in entry.events}


def insert_events(
    connection: sa.Connection, collecting_id: str, pairs: Iterable[tuple[Row, NewEvent]]
) -> set[tuple[int, str]]:
    """Store the events that their sessions do not have yet, and count those whose batch is released as late.

    The caller holds the sessions' row locks. Returns the new events by their session's `seq` and their id.
    """
    now = now_micros()
    batch_of, values = {}, []
    for row, event in pairs:
        batch_of[row.seq] = row.batch_id
        values.append(
            {
                "session_seq": row.seq,
                "event_id": event.event_id,
                "object_id": event.object_id,
                "event_type": event.event_type,
                "created_at": now if event.created_at is None else event.created_at,
                "meta": event.meta,
            }
        )
    if not values:
        return set()
    statement = insert(connection, events).on_conflict_do_nothing(index_elements=["session_seq", "event_id"])
    returned = connection.execute(statement.returning(events.c.session_seq, events.c.event_id), values)
    stored = {(int(row.session_seq), str(row.event_id)) for row in returned}
    count_late(connection, Counter(batch_of[seq] for seq, _ in stored if batch_of[seq] != collecting_id))
    return stored


def add_events(connection: sa.Connection, session_id: str, new: Sequence[NewEvent]) -> int:
    """Add events to one session and return how many were new.

    Raises:
        NotFound: there is no such session.
        InvalidInput: an event is about something that the session did not show.
    """
    share(connection)
    row = connection.execute(
        sa.select(*_MARKS, sessions.c.search_results).where(sessions.c.session_id == session_id).with_for_update()
    ).one_or_none()
    if row is None:
        raise NotFound(f"there is no session {session_id!r}: send the session before its events")
    shown = {result["object_id"] for result in row.search_results}
    for position, event in enumerate(new):
        if event.object_id not in shown:
            raise InvalidInput(
                f"object_id {event.object_id!r} is not among the results of session {session_id!r}: nothing was stored",
                field=f"events.{position}.object_id",
            )
    return len(insert_events(connection, collecting(connection), ((row, event) for event in new)))


def _find_or_store(
    connection: sa.Connection, entries: Sequence[Entry], hashes: Mapping[int, str], batch_id: str
) -> tuple[dict[str, Row], set[str]]:
    """The locked row of each session, by id, and the ids of those that were not there before."""
    firsts: dict[str, Entry] = {}
    for entry in entries:
        firsts.setdefault(entry.session.session_id, entry)
    rows: dict[str, Row] = {}
    new: set[str] = set()
    pending: Collection[str] = firsts.keys()
    while pending:
        query = sa.select(*_MARKS).where(sessions.c.session_id.in_(pending)).order_by(sessions.c.seq).with_for_update()
        rows |= {row.session_id: row for row in connection.execute(query)}
        missing = [firsts[key] for key in pending if key not in rows and firsts[key].session.search_query]
        stored = _insert_sessions(connection, missing, hashes, batch_id)
        rows |= stored
        new |= stored.keys()
        # Left over are those that somebody else has stored in between.
        pending = [entry.session.session_id for entry in missing if entry.session.session_id not in rows]
    return rows, new


def _insert_sessions(
    connection: sa.Connection, entries: Sequence[Entry], hashes: Mapping[int, str], batch_id: str
) -> dict[str, Row]:
    if not entries:
        return {}
    now = now_micros()
    values = [
        {
            "session_id": entry.session.session_id,
            "batch_id": batch_id,
            "search_query": entry.session.search_query,
            "search_results": [result.to_json() for result in entry.session.search_results],
            "search_meta": entry.session.search_meta,
            "user_id": entry.session.user_id,
            "created_at": now if entry.session.created_at is None else entry.session.created_at,
            "arrived_at": now,
            "is_irrelevant": entry.is_irrelevant,
            "request_hash": hashes[id(entry)],
        }
        for entry in entries
    ]
    statement = insert(connection, sessions).on_conflict_do_nothing(index_elements=["session_id"])
    return {row.session_id: row for row in connection.execute(statement.returning(*_MARKS), values)}


def _shown(connection: sa.Connection, session_ids: Collection[str]) -> dict[str, set[str]]:
    query = sa.select(sessions.c.session_id, sessions.c.search_results).where(sessions.c.session_id.in_(session_ids))
    rows = connection.execute(query) if session_ids else ()
    return {row.session_id: {result["object_id"] for result in row.search_results} for row in rows}


def _mark_irrelevant(connection: sa.Connection, seqs: Collection[int]) -> Collection[int]:
    if seqs:
        connection.execute(sa.update(sessions).where(sessions.c.seq.in_(seqs)).values(is_irrelevant=True))
    return seqs
