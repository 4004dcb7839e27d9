"""The same request many times at once does its work once."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

Make = Callable[..., dict[str, Any]]
TIMES = 20


def at_once(api_url: str, call: Callable[[httpx.Client], httpx.Response]) -> list[httpx.Response]:
    """The answers to a request that as many clients make at the same moment."""
    import threading

    gate = threading.Barrier(TIMES)

    def one(_: int) -> httpx.Response:
        with httpx.Client(base_url=api_url, timeout=60) as http:
            http.get("/api/v1/ping")
            gate.wait(30)
            return call(http)

    with ThreadPoolExecutor(TIMES) as pool:
        return list(pool.map(one, range(TIMES)))


def test_one_session(api_url: str, a_session: Make) -> None:
    body = a_session()
    answers = at_once(api_url, lambda http: http.post("/api/v1/clickstream/session", json=body))
    assert [answer.status_code for answer in answers] == [200] * TIMES
    assert sum(answer.json()["new"] for answer in answers) == 1


def test_two_sessions_with_one_id(api_url: str, http: httpx.Client, a_session: Make) -> None:
    body = a_session()
    answers = at_once(
        api_url,
        lambda http: http.post("/api/v1/clickstream/session", json={**body, "search_query": f"{id(http) % 2}"}),
    )
    stored = http.get("/api/v1/clickstream/session", params={"session_id": body["session_id"]}).json()
    assert stored["search_query"] in ("0", "1")
    assert {answer.status_code for answer in answers} <= {200, 409}
    assert sum(answer.status_code == 200 and answer.json()["new"] for answer in answers) == 1


def test_events(api_url: str, http: httpx.Client, a_session: Make) -> None:
    body = a_session()
    http.post("/api/v1/clickstream/session", json=body)
    events = [{"event_id": "1", "object_id": "a"}, {"event_id": "2", "object_id": "b"}]
    request = {"session_id": body["session_id"], "events": events}
    answers = at_once(api_url, lambda http: http.post("/api/v1/clickstream/session/events", json=request))
    assert [answer.status_code for answer in answers] == [200] * TIMES
    assert sum(answer.json()["new"] for answer in answers) == 2
    stored = http.get("/api/v1/clickstream/session", params={"session_id": body["session_id"]}).json()
    assert [event["event_id"] for event in stored["events"]] == ["1", "2"]


def test_a_release(api_url: str, http: httpx.Client, a_session: Make, new_id: Callable[[], str]) -> None:
    http.post("/api/v1/clickstream/session", json=a_session())
    request = {"release_id": new_id()}
    answers = at_once(api_url, lambda http: http.post("/api/v1/clickstream/internal/batch/release", json=request))
    assert [answer.status_code for answer in answers] == [200] * TIMES
    assert len({answer.json()["batch_id"] for answer in answers}) == 1


def test_a_task(api_url: str, http: httpx.Client, a_session: Make, new_id: Callable[[], str]) -> None:
    http.post("/api/v1/clickstream/session", json=a_session())
    request = {"fine_tuning_method": "Default Fine Tuning Method", "idempotency_key": new_id()}
    answers = at_once(api_url, lambda http: http.post("/api/v1/fine-tuning/task", json=request))
    assert [answer.status_code for answer in answers] == [200] * TIMES
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert answers[0].json()["batch_id"] is not None
    keys = [task.get("idempotency_key") for task in http.get("/api/v1/fine-tuning/task?limit=1000").json()]
    assert keys.count(request["idempotency_key"]) == 1
    other = {**request, "settings": {"max_runs": 3}}
    assert http.post("/api/v1/fine-tuning/task", json=other).status_code == 409


def test_items(api_url: str, http: httpx.Client, new_id: Callable[[], str]) -> None:
    items = [{"object_id": f"{new_id()}-{number}", "text": "x"} for number in range(50)]
    answers = at_once(api_url, lambda http: http.post("/api/v1/items", json=items))
    assert [answer.json() for answer in answers] == [{"upserted": 50}] * TIMES


def test_an_import(api_url: str, http: httpx.Client, a_session: Make) -> None:
    import json

    sessions = [a_session(events=[{"event_id": "e", "object_id": "a"}]) for _ in range(30)]
    body = b"\n".join(json.dumps(session).encode() for session in sessions)
    answers = at_once(api_url, lambda http: http.post("/api/v1/clickstream/sessions/import", content=body))
    reports = [answer.json() for answer in answers]
    assert [report["rejected_total"] for report in reports] == [0] * TIMES
    assert sum(report["accepted"] for report in reports) == 30
    assert sum(report["duplicates"] for report in reports) == 30 * (TIMES - 1)
