"""Batches: releasing is atomic and idempotent, and every session is in exactly one of them."""

import subprocess
import sys
import threading
import time
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sa

from support.feedback import click, in_threads, new_session
from support.service import wait_until
from tuneloop.database import Database
from tuneloop.errors import Conflict, InvalidInput
from tuneloop.feedback.recording import record
from tuneloop.feedback.records import Entry
from tuneloop.feedback.store import FeedbackStore, Session
from tuneloop.feedback.tables import sessions

# Another process that releases whatever is collected until a file appears.
RELEASING = """
import sys
from pathlib import Path
from tuneloop.database import Database
from tuneloop.errors import Conflict
from tuneloop.feedback.store import FeedbackStore

url, stop = sys.argv[1:]
store = FeedbackStore(Database(url))
released = number = 0
print("ready", flush=True)
while not Path(stop).exists():
    number += 1
    try:
        store.release(f"other process {number}")
        released += 1
    except Conflict:
        pass
print(released)
"""


def all_sessions(store: FeedbackStore, batch_id: str, limit: int = 7) -> list[Session]:
    """The sessions of a batch, page by page."""
    found: list[Session] = []
    after: str | None = None
    while True:
        page, after = store.batch_sessions(batch_id, after=after, limit=limit)
        assert len(page) <= limit
        found += page
        if after is None:
            return found


def ids(found: list[Session]) -> list[str]:
    return [session.session_id for session in found]


def test_a_release_closes_the_batch_and_the_next_one_collects(store: FeedbackStore) -> None:
    store.add_session(new_session("1"))
    store.add_session(new_session("2"))
    batch_id = store.release("r")
    store.add_session(new_session("3"))
    released, collecting = store.batches()
    assert (released.batch_id, released.status, released.sessions, released.late_events) == (batch_id, "released", 2, 0)
    assert released.released_at is not None and released.released_at >= released.created_at
    assert (collecting.status, collecting.sessions, collecting.released_at) == ("collecting", 1, None)
    assert store.batch(batch_id) == released
    assert ids(all_sessions(store, batch_id)) == ["1", "2"]
    assert ids(all_sessions(store, collecting.batch_id)) == ["3"]
    assert store.get_session("3").batch_id == collecting.batch_id


def test_nothing_collected_is_a_conflict_and_changes_nothing(store: FeedbackStore) -> None:
    with pytest.raises(Conflict, match="nothing is collected"):
        store.release("r")
    assert store.batches() == []
    store.add_session(new_session())
    batch_id = store.release("r")
    before = store.batches()
    with pytest.raises(Conflict):
        store.release("r2")
    assert store.batches() == before
    assert store.release("r") == batch_id


def test_a_release_id_names_one_release(store: FeedbackStore) -> None:
    store.add_session(new_session("1"))
    first = store.release("r")
    store.add_session(new_session("2"))
    assert store.release("r") == first
    assert store.get_session("2").batch_id != first
    assert store.release("r2") == store.get_session("2").batch_id


def test_twenty_identical_releases_at_once_are_one(store: FeedbackStore) -> None:
    store.add_session(new_session())
    assert set(in_threads(20, lambda _: store.release("r"))) == {store.get_session("s").batch_id}
    assert [batch.status for batch in store.batches()] == ["released", "collecting"]


def test_of_twenty_different_releases_at_once_one_gets_the_batch(store: FeedbackStore) -> None:
    store.add_session(new_session())
    answers = in_threads(20, lambda number: store.release(f"{number}"))
    assert sum(isinstance(answer, Conflict) for answer in answers) == 19
    assert store.get_session("s").batch_id in answers


def test_a_release_inside_a_transaction_that_fails_did_not_happen(store: FeedbackStore, database: Database) -> None:
    store.add_session(new_session())
    before = store.batches()
    with pytest.raises(RuntimeError), database.write() as connection:
        assert store.release_collecting(connection) == before[0].batch_id
        assert store.release_collecting(connection) is None
        raise RuntimeError
    assert store.batches() == before
    with database.write() as connection:
        assert store.release_collecting(connection) == before[0].batch_id
    assert [batch.status for batch in store.batches()] == ["released", "collecting"]


def test_unsettled_sessions_wait_for_the_next_release(store: FeedbackStore, database: Database) -> None:
    settling = FeedbackStore(database, settle_seconds=60)
    for number in range(4):
        settling.add_session(new_session(f"{number}"))
    with pytest.raises(Conflict):
        settling.release("too early")
    with database.write() as connection:  # two of them arrived a while ago
        earlier = sa.update(sessions).where(sessions.c.session_id.in_(["0", "2"]))
        connection.execute(earlier.values(arrived_at=sessions.c.arrived_at - 61_000_000))
    batch_id = settling.release("r")
    assert ids(all_sessions(settling, batch_id)) == ["0", "2"]
    assert [(batch.status, batch.sessions) for batch in settling.batches()] == [("released", 2), ("collecting", 2)]
    assert ids(all_sessions(settling, settling.batches()[1].batch_id)) == ["1", "3"]
    settling.add_events("1", [click()])
    assert settling.batches()[0].late_events == settling.batches()[1].late_events == 0


def test_an_event_after_the_release_is_kept_and_counted_once(store: FeedbackStore) -> None:
    store.add_session(new_session())
    store.add_events("s", [click("in time")])
    store.release("r")
    store.add_session(new_session("t"))
    assert store.add_events("s", [click("in time"), click("late", "b")]) == 1
    assert store.add_events("s", [click("late", "b")]) == 0
    assert store.add_events("t", [click("e")]) == 1
    assert [batch.late_events for batch in store.batches()] == [1, 0]
    assert len(store.get_session("s").events) == 2
    in_threads(20, lambda _: store.add_events("s", [click("later", "c")]))
    assert [batch.late_events for batch in store.batches()] == [2, 0]


def test_pages_and_streams_give_each_session_once_with_its_events(store: FeedbackStore, database: Database) -> None:
    for number in range(23):
        store.add_session(new_session(f"{number:02}"))
        store.add_events(f"{number:02}", [click(f"e{at}", "abc"[at]) for at in range(number % 4)])
    batch_id = store.release("r")
    expected = [f"{number:02}" for number in range(23)]
    for limit in (1, 7, 22, 23, 24, 1000):
        found = all_sessions(store, batch_id, limit)
        assert ids(found) == expected
        assert [len(session.events) for session in found] == [number % 4 for number in range(23)]
    with database.read() as connection:
        chunks = list(store.stream_batch(connection, batch_id, chunk=10))
    assert [len(chunk) for chunk in chunks] == [10, 10, 3]
    assert [session for chunk in chunks for session in chunk] == found


@pytest.mark.parametrize("cursor", ["nonsense!", "", "YWJj", "LTE", "OTk5OTk5OTk5OTk5OTk5OTk5OTk5OTk5", "_w", "///"])
def test_a_cursor_of_ones_own_making_is_refused(store: FeedbackStore, cursor: str) -> None:
    store.add_session(new_session())
    with pytest.raises(InvalidInput, match="not a cursor"):
        store.batch_sessions(store.batches()[0].batch_id, after=cursor, limit=10)


def test_a_release_waits_for_those_who_are_writing(store: FeedbackStore, database: Database) -> None:
    store.add_session(new_session("1"))
    found: list[list[str]] = []

    def release() -> None:
        with database.write() as connection:
            batch_id = store.release_collecting(connection)
            assert batch_id is not None
            [sessions_then] = store.stream_batch(connection, batch_id)
            found.append(ids(sessions_then))

    thread = threading.Thread(target=release)
    with database.write() as connection:
        record(connection, [Entry(new_session("2"))])
        thread.start()
        thread.join(0.5)
        assert found == []
    thread.join()
    assert found == [["1", "2"]]


def test_fifty_writers_and_two_releasers_leave_every_session_in_one_batch(store: FeedbackStore) -> None:
    at_release: dict[str, list[str]] = {}

    def work(number: int) -> list[str]:
        if number >= 50:
            released = []
            for at in range(15):
                try:
                    batch_id = store.release(f"{number} {at}")
                    released.append(batch_id)
                    at_release[batch_id] = ids(all_sessions(store, batch_id, 1000))
                except Conflict:
                    time.sleep(0.01)
            return released
        for at in range(4):
            store.add_session(new_session(f"{number} {at}"))
            store.add_events(f"{number} {at}", [click()])
        return []

    answers = in_threads(52, work)
    _check_every_session_is_in_one_batch(store, {f"{number} {at}" for number in range(50) for at in range(4)})
    released = [batch_id for answer in answers[50:] for batch_id in answer]  # type: ignore[attr-defined]  # lists
    assert len(released) == len(set(released)) >= 2
    assert {batch.batch_id for batch in store.batches() if batch.status == "released"} == set(released)
    assert at_release == {batch_id: ids(all_sessions(store, batch_id, 1000)) for batch_id in released}


def test_writers_here_and_releases_in_another_process_agree(
    store: FeedbackStore, database_url: str, tmp_path: Path
) -> None:
    stop = tmp_path / "stop"
    command = [sys.executable, "-c", RELEASING, database_url, str(stop)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"

        def work(round_: int, number: int) -> None:
            for at in range(12):
                store.add_session(new_session(f"{round_} {number} {at}"))

        for round_ in range(6):
            before = len(store.batches())
            assert in_threads(10, partial(work, round_)) == [None] * 10
            # SQLite gives nobody a turn: here the other process may have come by one only when the writers are done
            wait_until(lambda before=before: len(store.batches()) > before, what="a release in the other process")
        stop.touch()
        released = int(process.stdout.read())
    assert process.returncode == 0
    assert released >= 5
    _check_every_session_is_in_one_batch(
        store, {f"{round_} {number} {at}" for round_ in range(6) for number in range(10) for at in range(12)}
    )


def _check_every_session_is_in_one_batch(store: FeedbackStore, expected: set[str]) -> None:
    batches = store.batches()
    found = {batch.batch_id: ids(all_sessions(store, batch.batch_id, 1000)) for batch in batches}
    assert Counter(session_id for batch in found.values() for session_id in batch) == Counter(expected)
    assert {batch.batch_id: batch.sessions for batch in batches} == {key: len(value) for key, value in found.items()}
    assert [batch.status for batch in batches].count("collecting") == 1
    for batch_id, its_sessions in found.items():
        assert all(store.get_session(session_id).batch_id == batch_id for session_id in its_sessions[:3])
