"""Imports: good lines are stored, bad ones named, repeats change nothing."""

import gzip
import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from support.feedback import click, in_threads, ndjson, new_session, session_line
from tuneloop.database import Database
from tuneloop.errors import Conflict
from tuneloop.feedback.batches import take_turns_importing
from tuneloop.feedback.ndjson import MAX_LINE_BYTES, LineSplitter
from tuneloop.feedback.recording import record
from tuneloop.feedback.records import Entry
from tuneloop.feedback.schemas import SessionIn
from tuneloop.feedback.store import FeedbackStore, ImportReport, Rejected

SESSIONS = Path(__file__).parents[3] / "shared" / "data" / "rare-diseases" / "sessions.jsonl.gz"


def counts(report: ImportReport) -> tuple[int, int, int]:
    return report.accepted, report.duplicates, report.rejected_total


def test_good_lines_are_stored_and_bad_ones_named(store: FeedbackStore) -> None:
    lines = ndjson(
        session_line("1"),
        b"{broken\n",
        session_line("2", events=[{"event_id": "e", "object_id": "b"}], is_irrelevant=True),
        b"\n",
        b"  \r\n",
        session_line("3", created_at=-1),
        session_line("4", events=[{"event_id": "e", "object_id": "z"}]),
        b'{"session_id": "\xff"}\n',
        b"[]\n",
        b'"text"\n',
        b"NaN\n",
        json.dumps(session_line("5")).encode(),
    )
    report = store.import_sessions(iter(lines))
    assert counts(report) == (3, 0, 7)
    assert [rejected.line for rejected in report.rejected] == [2, 6, 7, 8, 9, 10, 11]
    reasons = {rejected.line: rejected.error for rejected in report.rejected}
    assert reasons[2].startswith("Invalid JSON")
    assert reasons[6].startswith("created_at: ")
    assert "events.0: object_id 'z'" in reasons[7]
    second = store.get_session("2")
    assert second.is_irrelevant and [event.object_id for event in second.events] == ["b"]
    assert store.batches()[0].sessions == 3


def test_an_import_again_is_all_duplicates(store: FeedbackStore) -> None:
    lines = ndjson(*(session_line(f"{n}", events=[{"event_id": "e", "object_id": "a"}]) for n in range(1234)))
    assert counts(store.import_sessions(lines)) == (1234, 0, 0)
    before = store.get_session("1233")
    assert counts(store.import_sessions(lines)) == (0, 1234, 0)
    assert store.get_session("1233") == before
    assert store.batches()[0].sessions == 1234


def test_a_session_sent_before_is_a_duplicate_too(store: FeedbackStore) -> None:
    line = session_line(user_id="u", created_at=5)
    store.add_session(SessionIn.model_validate(line).to_new())
    assert counts(store.import_sessions(ndjson(line))) == (0, 1, 0)


def test_new_events_and_verdicts_reach_a_known_session(store: FeedbackStore) -> None:
    first = {"event_id": "1", "object_id": "a"}
    store.import_sessions(ndjson(session_line(events=[first])))
    assert counts(store.import_sessions(ndjson(session_line()))) == (0, 1, 0)
    more = session_line(events=[first, {"event_id": "2", "object_id": "b"}])
    assert counts(store.import_sessions(ndjson(more))) == (1, 0, 0)
    assert counts(store.import_sessions(ndjson(more))) == (0, 1, 0)
    verdict = session_line(is_irrelevant=True)
    assert counts(store.import_sessions(ndjson(verdict))) == (1, 0, 0)
    assert counts(store.import_sessions(ndjson(verdict, more))) == (0, 2, 0)
    session = store.get_session("s")
    assert session.is_irrelevant and [event.event_id for event in session.events] == ["1", "2"]


def test_other_content_under_a_known_id_is_rejected(store: FeedbackStore) -> None:
    lines = ndjson(session_line("s"), session_line("t"), session_line("s", objects="ab"), session_line("t"))
    report = store.import_sessions(lines)
    assert counts(report) == (2, 1, 1)
    assert report.rejected == [Rejected(3, "'s': this session_id is stored with other content")]
    assert len(store.get_session("s").search_results) == 3


def test_events_for_released_sessions_are_late_and_counted_once(store: FeedbackStore) -> None:
    lines = ndjson(*(session_line(f"{number}") for number in range(3)))
    store.import_sessions(lines)
    store.release("r")
    late = ndjson(*(session_line(f"{n}", events=[{"event_id": "e", "object_id": "a"}]) for n in range(4)))
    assert counts(store.import_sessions(late)) == (4, 0, 0)
    assert counts(store.import_sessions(late)) == (0, 4, 0)
    assert [(batch.sessions, batch.late_events) for batch in store.batches()] == [(3, 3), (1, 0)]


def test_only_the_first_thousand_bad_lines_are_named(store: FeedbackStore) -> None:
    report = store.import_sessions(b"nonsense\n" for _ in range(1500))
    assert (len(report.rejected), report.rejected_total) == (1000, 1500)
    assert [rejected.line for rejected in report.rejected] == list(range(1, 1001))


def test_a_huge_line_is_rejected_and_the_next_one_read(store: FeedbackStore) -> None:
    huge = json.dumps(session_line("huge", search_meta="x" * MAX_LINE_BYTES)).encode()
    report = store.import_sessions([huge, *ndjson(session_line("small"))])
    assert counts(report) == (1, 0, 1)
    assert report.rejected == [Rejected(1, "the line is longer than 10,000,000 bytes")]


def test_what_came_before_a_broken_stream_is_stored(store: FeedbackStore) -> None:
    def lines() -> Iterator[bytes]:
        yield from ndjson(*(session_line(f"{number}") for number in range(500)))
        raise ConnectionError

    with pytest.raises(ConnectionError):
        store.import_sessions(lines())
    assert store.batches()[0].sessions == 500


def test_a_byte_order_mark_is_no_fault(store: FeedbackStore) -> None:
    assert counts(store.import_sessions([b"\xef\xbb\xbf" + ndjson(session_line())[0]])) == (1, 0, 0)


def test_imports_of_the_same_sessions_in_another_order_do_not_block_each_other(
    store: FeedbackStore, database: Database
) -> None:
    store.add_session(new_session("there is a batch"))
    reports: list[ImportReport] = []
    lines = ndjson(session_line("b"), session_line("a"))
    other = threading.Thread(target=lambda: reports.append(store.import_sessions(lines)))
    with database.write() as connection:  # as an import does
        take_turns_importing(connection)
        record(connection, [Entry(SessionIn.model_validate(session_line("a")).to_new())])
        other.start()
        other.join(0.5)
        record(connection, [Entry(SessionIn.model_validate(session_line("b")).to_new())])
    other.join()
    assert [counts(report) for report in reports] == [(0, 2, 0)]


def test_imports_writers_and_releases_at_once_store_each_session_once(store: FeedbackStore) -> None:
    lines = ndjson(
        *(
            session_line(f"{n}", events=[{"event_id": f"{at}", "object_id": "abc"[at]} for at in range(3)])
            for n in range(700)
        )
    )

    def work(number: int) -> object:
        if number < 4:
            return counts(store.import_sessions(lines if number % 2 else lines[::-1]))
        for at in range(0, 700, 50):
            session = SessionIn.model_validate(session_line(f"{at + number}")).to_new()
            store.add_session(session)
            store.add_events(session.session_id, [click("2", "c"), click("1", "b"), click("own", "a")])
            if number == 4:
                with suppress(Conflict):
                    store.release(f"{at}")
        return None

    answers = in_threads(8, work)
    assert all(isinstance(answer, tuple) and sum(answer) == 700 and answer[2] == 0 for answer in answers[:4])
    assert answers[4:] == [None] * 4
    assert sum(batch.sessions for batch in store.batches()) == 700
    event_ids = Counter(event.event_id for n in range(700) for event in store.get_session(f"{n}").events)
    assert event_ids == {"0": 700, "1": 700, "2": 700, "own": 4 * 14}


def test_the_sessions_of_a_real_log_are_imported_whole(store: FeedbackStore) -> None:
    if not SESSIONS.exists():
        pytest.skip(f"needs {SESSIONS.name} of the shared data folder")
    with gzip.open(SESSIONS) as stream:
        lines = stream.readlines()[::8]
    assert counts(store.import_sessions(lines)) == (len(lines), 0, 0)
    wanted = json.loads(lines[-1])
    session = store.get_session(wanted["session_id"])
    assert session.search_query == wanted["search_query"]
    assert [result.to_json() for result in session.search_results] == wanted["search_results"]
    assert len(session.events) == len(wanted["events"])
    assert counts(store.import_sessions(lines)) == (0, len(lines), 0)


def test_an_added_session_and_an_imported_one_are_told_apart_by_content(store: FeedbackStore) -> None:
    store.add_session(new_session())
    assert counts(store.import_sessions(ndjson(session_line(user_id="somebody else")))) == (0, 0, 1)


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
def test_lines_are_cut_wherever_the_chunks_end(size: int) -> None:
    text = b"first\n\nsecond line\r\nlast"
    splitter = LineSplitter()
    lines = [line for at in range(0, len(text), size) for line in splitter.feed(text[at : at + size])]
    assert lines + splitter.close() == [b"first", b"", b"second line\r", b"last"]


def test_an_endless_line_needs_no_endless_memory() -> None:
    splitter = LineSplitter()
    for _ in range(30):
        assert splitter.feed(b"x" * 1_000_000) == []
    [long, short] = splitter.feed(b"x\nshort\n")
    assert (len(long), short, splitter.close()) == (MAX_LINE_BYTES + 1, b"short", [])
