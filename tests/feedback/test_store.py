"""Sessions, events and verdicts: what is stored, what is refused, what a repeat does."""

import dataclasses
from collections import Counter

import pytest

from support.feedback import click, in_threads, new_session
from tuneloop.database import Database
from tuneloop.errors import Conflict, InvalidInput, NotFound
from tuneloop.feedback.store import FeedbackStore, NewSession, Result
from tuneloop.ids import now_micros

ODD_IDS = [
    "a/b/../c",
    "'; DROP TABLE sessions; --",
    '"',
    "%2F",
    "\\",
    "ü\U0001f600",
    " ",
    "x" * 512,
    "a\u2028b",
    "null",
]


def test_a_session_is_kept_as_it_was_sent(store: FeedbackStore) -> None:
    before = now_micros()
    results = (Result("a", 0.5, {"color": ["red", None, 1.5]}), Result("b"), Result("c", -3.0))
    sent = NewSession("s", "rote Schuhe \U0001f45f", results, {"page": 1}, "u", 1_700_000_000_123_456)
    assert store.add_session(sent) is True
    got = store.get_session("s")
    assert (got.search_query, got.search_results, got.search_meta) == (sent.search_query, results, {"page": 1})
    assert (got.user_id, got.created_at, got.is_irrelevant, got.events) == ("u", 1_700_000_000_123_456, False, ())
    assert before <= got.arrived_at <= now_micros()
    assert [batch.batch_id for batch in store.batches()] == [got.batch_id]


def test_created_at_defaults_to_the_arrival(store: FeedbackStore) -> None:
    store.add_session(new_session())
    store.add_events("s", [click()])
    got = store.get_session("s")
    assert got.created_at == got.arrived_at
    assert got.arrived_at <= got.events[0].created_at <= now_micros()


def test_a_repeat_changes_nothing_though_times_are_filled_in(store: FeedbackStore) -> None:
    store.add_session(new_session())
    before = store.get_session("s")
    assert store.add_session(new_session()) is False
    assert store.get_session("s") == before


@pytest.mark.parametrize(
    "change",
    [
        {"search_query": "blue shoes"},
        {"search_results": (Result("a"), Result("b"))},
        {"search_meta": {"page": 2}},
        {"user_id": "u"},
        {"created_at": 1},
    ],
)
def test_other_content_under_the_same_id_is_a_conflict(store: FeedbackStore, change: dict[str, object]) -> None:
    store.add_session(new_session())
    before = store.get_session("s")
    with pytest.raises(Conflict, match="other content"):
        store.add_session(dataclasses.replace(new_session(), **change))  # type: ignore[arg-type]  # any field
    assert store.get_session("s") == before


def test_twenty_identical_sessions_at_once_are_one(store: FeedbackStore) -> None:
    answers = in_threads(20, lambda _: store.add_session(new_session()))
    assert Counter(map(repr, answers)) == {"True": 1, "False": 19}
    assert [batch.sessions for batch in store.batches()] == [1]


def test_of_twenty_different_sessions_with_one_id_one_wins(store: FeedbackStore) -> None:
    answers = in_threads(20, lambda number: store.add_session(new_session(query=f"query {number}")))
    assert answers.count(True) == 1
    assert sum(isinstance(answer, Conflict) for answer in answers) == 19
    assert store.get_session("s").search_query == f"query {answers.index(True)}"


def test_events_come_back_in_the_order_they_arrived(store: FeedbackStore) -> None:
    store.add_session(new_session())
    assert store.add_events("s", [click("2", "b", created_at=5, meta={"x": 1}), click("1", "a")]) == 2
    assert store.add_events("s", [click("3", "b", event_type="purchase")]) == 1
    events = store.get_session("s").events
    assert [(event.event_id, event.object_id, event.event_type) for event in events] == [
        ("2", "b", "click"),
        ("1", "a", "click"),
        ("3", "b", "purchase"),
    ]
    assert (events[0].created_at, events[0].meta, events[1].meta) == (5, {"x": 1}, None)


def test_an_event_id_counts_once_in_its_session_and_the_first_stays(store: FeedbackStore) -> None:
    store.add_session(new_session("s"))
    store.add_session(new_session("t"))
    assert store.add_events("s", [click("e", "a"), click("e", "b")]) == 1
    assert store.add_events("s", [click("e", "c"), click("f", "c")]) == 1
    assert store.add_events("t", [click("e", "b")]) == 1
    assert [(event.event_id, event.object_id) for event in store.get_session("s").events] == [("e", "a"), ("f", "c")]


def test_twenty_identical_calls_with_events_store_them_once(store: FeedbackStore) -> None:
    store.add_session(new_session())
    events = [click(f"{number}", "abc"[number % 3]) for number in range(30)]

    def add(number: int) -> int:
        return store.add_events("s", events if number % 2 else events[::-1])

    answers = in_threads(20, add)
    assert sorted(answers, key=repr) == [0] * 19 + [30]
    assert len(store.get_session("s").events) == 30


def test_an_event_about_something_not_shown_stores_none_of_the_call(store: FeedbackStore) -> None:
    store.add_session(new_session())
    with pytest.raises(InvalidInput, match="'z' is not among the results") as caught:
        store.add_events("s", [click("1", "a"), click("2", "z")])
    assert caught.value.field == "events.1.object_id"
    assert store.get_session("s").events == ()


def test_a_verdict_is_kept(store: FeedbackStore) -> None:
    store.add_session(new_session())
    store.mark_irrelevant("s")
    store.mark_irrelevant("s")
    assert store.get_session("s").is_irrelevant is True
    assert store.add_session(new_session()) is False


def test_unknown_sessions_and_batches_are_named(store: FeedbackStore) -> None:
    for call in (
        lambda: store.get_session("nobody's"),
        lambda: store.add_events("nobody's", [click()]),
        lambda: store.mark_irrelevant("nobody's"),
        lambda: store.batch_sessions("nobody's", after=None, limit=1),
    ):
        with pytest.raises(NotFound, match="nobody's"):
            call()
    assert store.batch("nobody's") is None


def test_ids_are_opaque(store: FeedbackStore) -> None:
    for number, odd in enumerate(ODD_IDS):
        sent = NewSession(odd, "q", (Result(odd),), user_id=odd)
        assert store.add_session(sent) is True
        assert store.add_events(odd, [click(odd, odd)]) == 1
        got = store.get_session(odd)
        assert (got.session_id, got.user_id, got.search_results[0].object_id) == (odd, odd, odd)
        assert (got.events[0].event_id, got.events[0].object_id) == (odd, odd)
        assert store.batches()[0].sessions == number + 1


def test_what_a_call_answered_is_there_for_another_connection(store: FeedbackStore, database_url: str) -> None:
    store.add_session(new_session())
    store.add_events("s", [click()])
    other = Database(database_url)
    assert len(FeedbackStore(other).get_session("s").events) == 1
    other.dispose()


def test_existing_tells_the_stored_from_the_others(store: FeedbackStore, database: Database) -> None:
    for number in range(3):
        store.add_session(new_session(f"s{number}"))
    with database.read() as connection:
        asked = [f"s{number}" for number in range(2500)]
        assert store.existing(connection, asked) == {"s0", "s1", "s2"}
        assert store.existing(connection, []) == set()
