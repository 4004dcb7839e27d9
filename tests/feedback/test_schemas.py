"""What clients send: each fault is refused and named."""

import json
import re
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from support.feedback import session_line
from tuneloop.feedback.schemas import EventIn, EventsIn, ImportLine, IrrelevantIn, ReleaseIn, SessionIn, describe
from tuneloop.feedback.store import Result

DEEP: Any = 1
for _ in range(150):
    DEEP = [DEEP]


def refusal(model: type[BaseModel], value: Any) -> str:
    """Why the value is refused, whether it comes parsed or as JSON text."""
    with pytest.raises(ValidationError) as parsed:
        model.model_validate(value)
    with pytest.raises(ValidationError):
        model.model_validate_json(json.dumps(value))
    return describe(parsed.value)


def test_a_whole_session_is_taken_as_it_is() -> None:
    results = [{"object_id": "a", "rank": 1, "meta": {"x": [1, None]}}, {"object_id": "b", "rank": None}]
    body = session_line(search_results=results, search_meta=[1], user_id="u", created_at=1_700_000_000.25)
    for session in (SessionIn.model_validate(body), SessionIn.model_validate_json(json.dumps(body))):
        new = session.to_new()
        assert new.search_results == (Result("a", 1.0, {"x": [1, None]}), Result("b"))
        assert (new.search_meta, new.user_id, new.created_at) == ([1], "u", 1_700_000_000_250_000)


def test_the_smallest_session_and_the_edges_are_taken() -> None:
    new = SessionIn.model_validate({"session_id": "s", "search_query": "q", "search_results": []}).to_new()
    assert (new.search_results, new.user_id, new.created_at) == ((), None, None)
    SessionIn.model_validate(session_line("x" * 512, created_at=0, search_query="q" * 10_000))
    SessionIn.model_validate(session_line(created_at=4_102_444_799.9))
    results = [{"object_id": str(number)} for number in range(1000)]
    assert len(SessionIn.model_validate(session_line(search_results=results)).to_new().search_results) == 1000


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"session_id": ""}, "session_id: "),
        ({"session_id": "x" * 513}, "session_id: "),
        ({"session_id": "a\nb"}, "session_id: .*no control characters"),
        ({"session_id": "a\0"}, "session_id: .*no control characters"),
        ({"session_id": "\ud800"}, "session_id: "),
        ({"session_id": 7}, "session_id: .*string"),
        ({"session_id": None}, "session_id: .*string"),
        ({"search_query": ""}, "search_query: "),
        ({"search_query": " \t\n"}, "search_query: .*blank"),
        ({"search_query": "x" * 10_001}, "search_query: .*10000"),
        ({"search_query": "a\0b"}, "search_query: .*NUL"),
        ({"search_query": "a\ud800b"}, "search_query: "),
        ({"search_results": None}, "search_results: "),
        ({"search_results": {"object_id": "a"}}, "search_results: "),
        ({"search_results": [{"object_id": str(number)} for number in range(1001)]}, "search_results: .*1000 items"),
        ({"search_results": [{"object_id": "a"}, {"object_id": "a"}]}, "search_results: .*'a' is there twice"),
        ({"search_results": [{"object_id": "a", "rank": "0.5"}]}, "search_results.0.rank: .*number"),
        ({"search_results": [{"object_id": "a", "rank": True}]}, "search_results.0.rank: .*number"),
        ({"search_results": [{"object_id": "a", "rank": float("nan")}]}, "search_results.0.rank: .*finite"),
        ({"search_results": [{"object_id": "a", "rank": float("-inf")}]}, "search_results.0.rank: .*finite"),
        ({"search_results": [{"object_id": "a", "meta": {"x": [float("inf")]}}]}, "search_results.0.meta: .*infinity"),
        ({"search_results": [{"object_id": "a", "score": 1}]}, "search_results.0.score: "),
        ({"search_results": [{"rank": 1}]}, "search_results.0.object_id: .*required"),
        ({"search_meta": {"a": {"b": ["x\0"]}}}, "search_meta: .*NUL"),
        ({"search_meta": {"a\0": 1}}, "search_meta: .*NUL"),
        ({"search_meta": {"\udfff": 1}}, "search_meta: .*surrogates"),
        ({"search_meta": DEEP}, "search_meta: .*nested"),
        ({"user_id": ""}, "user_id: "),
        ({"created_at": -1}, "created_at: .*negative"),
        ({"created_at": 1_700_000_000_000}, "created_at: .*divide milliseconds by 1000"),
        ({"created_at": 4_102_444_800}, "created_at: .*before 2100"),
        ({"created_at": float("nan")}, "created_at: .*finite"),
        ({"created_at": "2024-01-01"}, "created_at: .*number"),
        ({"created_at": True}, "created_at: .*number"),
        ({"search_querry": "typo"}, "search_querry: "),
    ],
)
def test_a_fault_in_a_session_is_named(change: dict[str, Any], named: str) -> None:
    refused = refusal(SessionIn, session_line() | change)
    assert re.match(named, refused), refused


@pytest.mark.parametrize("missing", ["session_id", "search_query", "search_results"])
def test_what_is_missing_is_named(missing: str) -> None:
    body = session_line()
    del body[missing]
    assert refusal(SessionIn, body) == f"{missing}: Field required"


@pytest.mark.parametrize("body", [[], "s", 1, None, [session_line()]])
def test_a_body_that_is_no_object_is_refused(body: Any) -> None:
    assert refusal(SessionIn, body)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"event_id": ""}, "events.0.event_id: "),
        ({"object_id": "a\x7f"}, "events.0.object_id: "),
        ({"event_type": ""}, "events.0.event_type: "),
        ({"event_type": "x" * 101}, "events.0.event_type: "),
        ({"event_type": None}, "events.0.event_type: "),
        ({"created_at": 1_700_000_000_000}, "events.0.created_at: .*milliseconds"),
        ({"meta": "\0"}, "events.0.meta: .*NUL"),
        ({"type": "click"}, "events.0.type: "),
    ],
)
def test_a_fault_in_an_event_is_named(change: dict[str, Any], named: str) -> None:
    refused = refusal(EventsIn, {"session_id": "s", "events": [{"event_id": "e", "object_id": "a"} | change]})
    assert re.match(named, refused), refused


def test_events_have_a_default_type_and_a_limit() -> None:
    event = {"event_id": "e", "object_id": "a"}
    new = EventIn.model_validate(event | {"created_at": 2}).to_new()
    assert (new.event_type, new.created_at) == ("click", 2_000_000)
    assert len(EventsIn.model_validate({"session_id": "s", "events": [event] * 1000}).to_new()) == 1000
    assert refusal(EventsIn, {"session_id": "s", "events": [event] * 1001}).startswith("events: ")


def test_a_line_of_an_import_brings_events_and_a_verdict() -> None:
    events = [{"event_id": "1", "object_id": "b"}, {"event_id": "2", "object_id": "c", "event_type": "purchase"}]
    entry = ImportLine.model_validate(session_line(events=events, is_irrelevant=True)).to_entry()
    assert [(event.event_id, event.event_type) for event in entry.events] == [("1", "click"), ("2", "purchase")]
    assert entry.is_irrelevant is True
    refused = refusal(ImportLine, session_line(events=[*events, {"event_id": "3", "object_id": "z"}]))
    assert "events.2: object_id 'z' is not among the search_results" in refused
    assert refusal(ImportLine, session_line(is_irrelevant="yes")).startswith("is_irrelevant: ")


def test_the_small_bodies_check_their_ids() -> None:
    assert IrrelevantIn.model_validate({"session_id": "s"}).session_id == "s"
    assert ReleaseIn.model_validate({"release_id": "r"}).release_id == "r"
    assert refusal(IrrelevantIn, {"session_id": ""}).startswith("session_id: ")
    assert refusal(ReleaseIn, {"release_id": "\x01"}).startswith("release_id: ")


def test_many_faults_are_told_in_one_short_line() -> None:
    results = [{"object_id": str(number), "rank": "x"} for number in range(900)]
    told = refusal(SessionIn, session_line(search_results=results))
    assert told.endswith("(and 897 more)") and told.count(";") == 2 and "\n" not in told
