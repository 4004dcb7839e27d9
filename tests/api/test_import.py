import gzip
import json
import socket
from collections.abc import Callable
from typing import Any

import httpx
import pytest

Make = Callable[..., dict[str, Any]]
IMPORT = "/api/v1/clickstream/sessions/import"
SESSION = "/api/v1/clickstream/session"


def ndjson(*sessions: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(session).encode() + b"\n" for session in sessions)


def test_good_lines_are_stored_and_bad_ones_named(http: httpx.Client, a_session: Make) -> None:
    first = a_session(events=[{"event_id": "e", "object_id": "a"}], is_irrelevant=False)
    second = a_session(is_irrelevant=True)
    body = ndjson(first) + b"\n{broken\n" + ndjson({**a_session(), "search_query": ""}) + ndjson(second, first)
    answer = http.post(IMPORT, content=body, headers={"Content-Type": "application/x-ndjson"})
    assert answer.status_code == 200
    report = answer.json()
    assert (report["accepted"], report["duplicates"], report["rejected_total"]) == (2, 1, 2)
    assert [line["line"] for line in report["rejected"]] == [3, 4]
    assert "search_query" in report["rejected"][1]["error"]
    stored = http.get(SESSION, params={"session_id": first["session_id"]}).json()
    assert [event["event_id"] for event in stored["events"]] == ["e"]
    assert http.get(SESSION, params={"session_id": second["session_id"]}).json()["is_irrelevant"] is True


@pytest.mark.parametrize("declared", [True, False])
def test_gzip_is_understood(http: httpx.Client, a_session: Make, declared: bool) -> None:
    body = gzip.compress(ndjson(*[a_session() for _ in range(20)])) + gzip.compress(ndjson(a_session()))
    answer = http.post(IMPORT, content=body, headers={"Content-Encoding": "gzip"} if declared else {})
    assert (answer.status_code, answer.json()["accepted"]) == (200, 21)


def test_broken_gzip_is_422(http: httpx.Client, a_session: Make) -> None:
    whole = gzip.compress(ndjson(*[a_session() for _ in range(20)]))
    for broken in (whole[:-20], b"no gzip at all", whole + b"tail"):
        answer = http.post(IMPORT, content=broken, headers={"Content-Encoding": "gzip"})
        assert answer.status_code == 422
        assert "gzip" in answer.text
    answer = http.post(IMPORT, content=b"x", headers={"Content-Encoding": "br"})
    assert answer.status_code == 422


def test_an_empty_import_is_fine(http: httpx.Client) -> None:
    nothing = {"accepted": 0, "duplicates": 0, "rejected": [], "rejected_total": 0}
    assert http.post(IMPORT).json() == nothing
    assert http.post(IMPORT, content=b"\n\r\n").json() == nothing


def test_only_the_first_thousand_bad_lines_are_named(http: httpx.Client) -> None:
    report = http.post(IMPORT, content=b"nonsense\n" * 1500).json()
    assert (len(report["rejected"]), report["rejected_total"]) == (1000, 1500)


def test_a_client_that_leaves_half_way_harms_nobody(api_url: str, http: httpx.Client, a_session: Make) -> None:
    host, port = api_url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(f"POST {IMPORT} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n".encode())
        connection.sendall(ndjson(a_session())[:100])
    body = a_session()
    assert http.post(IMPORT, content=ndjson(body)).json()["accepted"] == 1
    assert http.get(SESSION, params={"session_id": body["session_id"]}).status_code == 200


def test_ubi_records_are_understood(http: httpx.Client, new_id: Callable[[], str]) -> None:
    query, action = new_id(), "2024-05-21T03:00:00.000Z"
    records: list[dict[str, Any]] = [
        {"index": {"_index": "ubi_queries"}},
        {
            "query_id": query,
            "client_id": "c-1",
            "user_query": "laptop",
            "query_response_hit_ids": ["l-1", "l-2"],
            "timestamp": action,
        },
        {"index": {"_index": "ubi_events"}},
        {
            "action_name": "click",
            "query_id": query,
            "client_id": "c-1",
            "timestamp": action,
            "event_attributes": {"object": {"object_id": "l-2"}, "position": {"ordinal": 2}},
        },
    ]
    report = http.post(IMPORT, params={"format": "ubi"}, content=ndjson(*records)).json()
    assert (report["accepted"], report["rejected_total"]) == (1, 0), report
