"""Sessions, events, batches, imports and erasure through the client."""

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from tuneloop.client import (
    ConflictError,
    Event,
    InvalidInputError,
    InvalidRequestError,
    NotFoundError,
    SearchResult,
)
from tuneloop.client.files import open_records

UBI = Path(__file__).parents[3] / "shared" / "data" / "ubi" / "ubi_queries_events.ndjson.gz"


@pytest.mark.parametrize("name", ["plain", "a/b", "../../etc", "ü ?&=%2F#", "'; DROP TABLE sessions;--", "."])
def test_a_session_comes_back_as_it_was_sent(client, new_id, name):
    session_id = f"{new_id()}{name}"
    at = datetime(2024, 5, 17, 12, 30, 1, 250_000, tzinfo=UTC)
    shown = [SearchResult("a", rank=np.float32(0.5)), {"object_id": name, "meta": {"shelf": 3}}]
    client.add_session(
        session_id, "red dress", shown, user_id=name, created_at=at, search_meta={"page": 1, "filters": [True]}
    )
    client.add_events(session_id, [Event("e1", name, created_at=at), {"event_id": "e2", "object_id": "a"}])
    client.mark_irrelevant(session_id)

    session = client.get_session(session_id)

    assert session.session_id == session_id and session.search_query == "red dress" and session.user_id == name
    assert session.search_results == (SearchResult("a", 0.5), SearchResult(name, None, {"shelf": 3}))
    assert session.created_at == at and session.search_meta == {"page": 1, "filters": [True]}
    assert [(event.event_id, event.object_id, event.event_type) for event in session.events] == [
        ("e1", name, "click"),
        ("e2", "a", "click"),
    ]
    assert session.events[0].created_at == at
    assert session.is_irrelevant and session.batch_id


def test_errors_tell_kinds_apart_and_name_what_is_wrong(client, a_session):
    session = a_session()
    client.add_session(**session)
    client.add_session(**session)  # the same again changes nothing
    with pytest.raises(ConflictError) as conflict:
        client.add_session(**{**session, "search_query": "blue"})
    assert conflict.value.status == 409
    with pytest.raises(NotFoundError):
        client.get_session("no such session")
    with pytest.raises(NotFoundError):
        client.add_events("no such session", [Event("e", "a")])
    with pytest.raises(InvalidInputError, match="zzz"):
        client.add_events(session["session_id"], [Event("e", "zzz")])
    with pytest.raises(InvalidInputError, match=r"search_query"):
        client.add_session("s", "", [])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "\ud800", object(), datetime(2024, 1, 1)])
def test_what_json_cannot_say_is_refused_before_it_is_sent(client, a_session, value):
    with pytest.raises(InvalidRequestError):
        client.add_session(**a_session(search_meta=value))


def test_lone_surrogates_in_ids_are_refused_too(client):
    with pytest.raises(InvalidRequestError):
        client.get_session("\ud800")
    with pytest.raises(InvalidRequestError):
        client.get_item("\ud800")


def test_an_import_in_many_requests_numbers_lines_over_all_of_them(client, a_session):
    sessions = [a_session(events=[{"event_id": "e", "object_id": "b"}]) for _ in range(4_500)]
    lines = [json.dumps(session) for session in sessions]
    lines[0] = "{broken"
    lines[2_500] = json.dumps(a_session(search_query=""))
    lines[3_000] = ""
    lines[4_000] = lines[1]
    sent = []

    report = client.import_sessions((line for line in lines), progress=sent.append)

    assert (report.accepted, report.duplicates, report.rejected_total) == (4_496, 1, 2)
    assert [bad.line for bad in report.rejected] == [1, 2_501]
    assert "search_query" in report.rejected[1].error
    assert sent == [1_000, 2_000, 3_000, 4_000, 4_500]
    assert client.get_session(sessions[-1]["session_id"]).events[0].object_id == "b"


def test_an_import_takes_mappings_and_names_a_thousand_bad_lines(client, a_session):
    report = client.import_sessions(a_session(search_query="") for _ in range(2_300))
    assert report.rejected_total == 2_300 and len(report.rejected) == 1_000 and report.all_rejected
    assert client.import_sessions([a_session()]).accepted == 1
    assert client.import_sessions([]).accepted == 0


def test_a_session_larger_than_a_chunk_is_imported(client, a_session):
    large = a_session(search_meta="x" * 5_000_000)
    assert client.import_sessions([a_session(), large, a_session()]).accepted == 3


@pytest.mark.skipif(not UBI.exists(), reason="the UBI sample is not there")
def test_a_ubi_log_is_imported_whole(own_client):
    with open_records(UBI) as records:
        assert records.format == "ubi"
        report = own_client.import_sessions(records.lines, format="ubi")
    assert report.accepted > 100
    batch_id = own_client.release_batch()
    sessions = list(own_client.batch_sessions(batch_id, page_size=50))
    assert len(sessions) == report.accepted
    assert sum(len(session.search_results) for session in sessions) > 1_000
    assert any(event.event_type == "click" for session in sessions for event in session.events)


def test_batches_are_released_once_and_read_by_pages(own_client, a_session):
    with pytest.raises(ConflictError):
        own_client.release_batch()
    sent = [a_session()["session_id"] for _ in range(25)]
    own_client.import_sessions(a_session(session_id=session_id) for session_id in sent)
    batch_id = own_client.release_batch("mine")
    assert own_client.release_batch("mine") == batch_id

    assert [session.session_id for session in own_client.batch_sessions(batch_id, page_size=10)] == sent
    released = {batch.batch_id: batch for batch in own_client.batches()}[batch_id]
    assert released.status == "released" and released.sessions == 25 and released.released_at.tzinfo is UTC
    with pytest.raises(NotFoundError):
        next(own_client.batch_sessions("0" * 24))


def test_forgetting(client, a_session, new_id):
    user = f"{new_id()}/ü"
    sessions = [a_session(user_id=user) for _ in range(3)]
    client.import_sessions(sessions)
    assert client.forget_session(sessions[0]["session_id"]) == 1
    assert client.forget_user(user) == 2
    assert client.forget_user(user) == 0
    with pytest.raises(NotFoundError):
        client.get_session(sessions[1]["session_id"])
