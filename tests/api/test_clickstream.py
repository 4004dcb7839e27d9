from collections.abc import Callable
from typing import Any

import httpx

Make = Callable[..., dict[str, Any]]
SESSION = "/api/v1/clickstream/session"


def stored(http: httpx.Client, session_id: str) -> dict[str, Any]:
    answer = http.get(SESSION, params={"session_id": session_id})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_session_comes_back_as_it_was_sent(http: httpx.Client, a_session: Make) -> None:
    body = a_session(search_meta={"page": 1, "filters": [None, "red"]}, user_id="ünï/..", created_at=1703169025.823)
    assert http.post(SESSION, json=body).status_code == 200
    answer = stored(http, body["session_id"])
    assert answer.pop("batch_id")
    assert answer == {**body, "created_at": "2023-12-21T14:30:25.823000", "is_irrelevant": False, "events": []}


def test_the_same_session_again_changes_nothing(http: httpx.Client, a_session: Make) -> None:
    body = a_session()
    assert http.post(SESSION, json=body).json() == {"session_id": body["session_id"], "new": True}
    before = stored(http, body["session_id"])
    again = http.post(SESSION, json=body)
    assert (again.status_code, again.json()["new"]) == (200, False)
    assert stored(http, body["session_id"]) == before


def test_another_session_with_the_same_id_is_refused(http: httpx.Client, a_session: Make) -> None:
    body = a_session()
    http.post(SESSION, json=body)
    before = stored(http, body["session_id"])
    clash = http.post(SESSION, json={**body, "search_query": "blue dress"})
    assert clash.status_code == 409
    assert "session" in clash.json()["detail"]
    assert stored(http, body["session_id"]) == before


def test_events_are_stored_once(http: httpx.Client, a_session: Make) -> None:
    body = a_session()
    http.post(SESSION, json=body)
    events = {
        "session_id": body["session_id"],
        "events": [
            {"event_id": "1", "object_id": "a", "created_at": 1703169030},
            {"event_id": "2", "object_id": "b", "event_type": "cart", "meta": {"n": 2}, "created_at": 1703169031.5},
        ],
    }
    assert http.post(f"{SESSION}/events", json=events).json() == {"session_id": body["session_id"], "new": 2}
    assert http.post(f"{SESSION}/events", json=events).json()["new"] == 0
    assert stored(http, body["session_id"])["events"] == [
        {"event_id": "1", "object_id": "a", "event_type": "click", "created_at": "2023-12-21T14:30:30.000000"},
        {
            "event_id": "2",
            "object_id": "b",
            "event_type": "cart",
            "created_at": "2023-12-21T14:30:31.500000",
            "meta": {"n": 2},
        },
    ]


def test_events_of_an_unknown_session_are_404(http: httpx.Client, new_id: Callable[[], str]) -> None:
    body = {"session_id": new_id(), "events": [{"event_id": "1", "object_id": "a"}]}
    assert http.post(f"{SESSION}/events", json=body).status_code == 404


def test_an_event_about_something_not_shown_stores_none_of_the_call(http: httpx.Client, a_session: Make) -> None:
    body = a_session()
    http.post(SESSION, json=body)
    events = [{"event_id": "1", "object_id": "a"}, {"event_id": "2", "object_id": "elsewhere"}]
    answer = http.post(f"{SESSION}/events", json={"session_id": body["session_id"], "events": events})
    assert answer.status_code == 422
    assert "elsewhere" in answer.text
    assert "object_id" in answer.text
    assert stored(http, body["session_id"])["events"] == []


def test_a_session_is_marked_irrelevant(http: httpx.Client, a_session: Make, new_id: Callable[[], str]) -> None:
    body = a_session()
    http.post(SESSION, json=body)
    for _ in range(2):
        assert http.post(f"{SESSION}/irrelevant", json={"session_id": body["session_id"]}).status_code == 200
    assert stored(http, body["session_id"])["is_irrelevant"] is True
    assert http.post(f"{SESSION}/irrelevant", json={"session_id": new_id()}).status_code == 404


def test_unknown_sessions_are_404(http: httpx.Client, new_id: Callable[[], str]) -> None:
    answer = http.get(SESSION, params={"session_id": new_id()})
    assert answer.status_code == 404
    assert isinstance(answer.json()["detail"], str)


def test_a_session_is_forgotten(http: httpx.Client, a_session: Make) -> None:
    body = a_session()
    http.post(SESSION, json=body)
    assert http.delete(SESSION, params={"session_id": body["session_id"]}).json() == {"deleted": 1}
    assert http.get(SESSION, params={"session_id": body["session_id"]}).status_code == 404
    assert http.delete(SESSION, params={"session_id": body["session_id"]}).json() == {"deleted": 0}


def test_a_user_is_forgotten(http: httpx.Client, a_session: Make, new_id: Callable[[], str]) -> None:
    user, other = new_id(), a_session(user_id="somebody else")
    mine = [a_session(user_id=user) for _ in range(3)]
    for body in [*mine, other]:
        http.post(SESSION, json=body)
    assert http.delete("/api/v1/clickstream/user", params={"user_id": user}).json() == {"deleted": 3}
    assert http.get(SESSION, params={"session_id": mine[0]["session_id"]}).status_code == 404
    assert stored(http, other["session_id"])["user_id"] == "somebody else"


def test_batches_are_released_and_read_page_by_page(
    http: httpx.Client, a_session: Make, new_id: Callable[[], str]
) -> None:
    http.post("/api/v1/clickstream/internal/batch/release", json={"release_id": new_id()})
    bodies = [a_session() for _ in range(5)]
    for body in bodies:
        http.post(SESSION, json=body)
    collecting = stored(http, bodies[0]["session_id"])["batch_id"]
    release = {"release_id": new_id()}
    released = http.post("/api/v1/clickstream/internal/batch/release", json=release)
    assert released.json() == {"batch_id": collecting}
    assert http.post("/api/v1/clickstream/internal/batch/release", json=release).json() == {"batch_id": collecting}

    nothing = http.post("/api/v1/clickstream/internal/batch/release", json={"release_id": new_id()})
    assert nothing.status_code == 409
    assert "nothing" in nothing.json()["detail"]

    [batch] = [
        batch
        for batch in http.get("/api/v1/clickstream/internal/batch").json()["batches"]
        if batch["batch_id"] == collecting
    ]
    assert (batch["status"], batch["sessions"], batch["late_events"]) == ("released", 5, 0)
    assert batch["released_at"] > batch["created_at"]

    late = {"session_id": bodies[0]["session_id"], "events": [{"event_id": "late", "object_id": "a"}]}
    assert http.post(f"{SESSION}/events", json=late).status_code == 200
    seen, after = [], None
    while True:
        params = {"batch_id": collecting, "limit": 2, **({"after": after} if after else {})}
        page = http.get("/api/v1/clickstream/internal/batch/sessions", params=params).json()
        assert len(page["sessions"]) <= 2
        seen += page["sessions"]
        after = page["next"]
        if after is None:
            break
    assert [session["session_id"] for session in seen] == [body["session_id"] for body in bodies]
    assert [event["event_id"] for event in seen[0]["events"]] == ["late"]


def test_unknown_batches_and_cursors_are_refused(http: httpx.Client, a_session: Make) -> None:
    sessions = "/api/v1/clickstream/internal/batch/sessions"
    assert http.get(sessions, params={"batch_id": "0" * 24}).status_code == 404
    body = a_session()
    http.post(SESSION, json=body)
    batch_id = stored(http, body["session_id"])["batch_id"]
    wrong = http.get(sessions, params={"batch_id": batch_id, "after": "nonsense!"})
    assert wrong.status_code == 422
    assert wrong.json()["detail"][0]["loc"] == ["query", "after"]
