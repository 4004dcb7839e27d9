"""Wrong input gets a 4xx that names the field and the fix, and stores nothing."""

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

Make = Callable[..., dict[str, Any]]
SESSION = "/api/v1/clickstream/session"


def refused(http: httpx.Client, content: bytes | str, *, path: str = SESSION) -> list[dict[str, Any]]:
    """The problems that a body is refused for."""
    answer = http.post(path, content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422, answer.text
    assert len(answer.content) < 20_000
    detail = json.loads(answer.content, parse_constant=pytest.fail)["detail"]
    assert all(set(problem) == {"loc", "msg", "type"} for problem in detail)
    json.dumps(detail, ensure_ascii=False).encode()  # no lone surrogates
    return detail


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        (b"", "required"),
        (b"   ", "no valid JSON"),
        (b"{", "no valid JSON"),
        (b'{"session_id": "a",}', "trailing comma"),
        (b'{"session_id": "a"} {}', "trailing characters"),
        (b"{'session_id': 'a'}", "no valid JSON"),
        (b'{"session_id": "\xff"}', "not UTF-8"),
        ('{"session_id": "a"}'.encode("utf-16"), "not UTF-8"),
        (b"[" * 100_000, "nested"),
        (b'{"search_meta":' * 100_000, "nested"),
        (b"1" * 5000, "out of range"),
    ],
)
def test_broken_json(http: httpx.Client, content: bytes, hint: str) -> None:
    [problem] = refused(http, content)
    assert problem["loc"][0] == "body"
    assert hint in problem["msg"]


@pytest.mark.parametrize("content", [b"null", b"1", b'"text"', b"[]", b"true"])
def test_json_of_another_type(http: httpx.Client, content: bytes) -> None:
    assert refused(http, content)[0]["loc"] == ["body"]


WRONG_FIELDS: list[tuple[str, Any, list[Any]]] = [
    ("session_id", None, ["session_id"]),
    ("session_id", "", ["session_id"]),
    ("session_id", "x" * 513, ["session_id"]),
    ("session_id", 7, ["session_id"]),
    ("session_id", "line\nend", ["session_id"]),
    ("session_id", "nul\0", ["session_id"]),
    ("user_id", "", ["user_id"]),
    ("user_id", ["u"], ["user_id"]),
    ("user_id", "tab\t", ["user_id"]),
    ("search_query", "", ["search_query"]),
    ("search_query", "   ", ["search_query"]),
    ("search_query", None, ["search_query"]),
    ("search_query", {"q": 1}, ["search_query"]),
    ("search_query", "nul\0", ["search_query"]),
    ("search_results", None, ["search_results"]),
    ("search_results", {}, ["search_results"]),
    ("search_results", ["a"], ["search_results", 0]),
    ("search_results", [{"rank": 1}], ["search_results", 0, "object_id"]),
    ("search_results", [{"object_id": "a", "rank": "high"}], ["search_results", 0, "rank"]),
    ("search_results", [{"object_id": "a", "rank": True}], ["search_results", 0, "rank"]),
    ("search_results", [{"object_id": "nul\0"}], ["search_results", 0, "object_id"]),
    ("search_results", [{"object_id": "a"}, {"object_id": "a"}], ["search_results"]),
    ("search_results", [{"object_id": "a", "colour": "red"}], ["search_results", 0, "colour"]),
    ("search_results", [{"object_id": f"o{n}"} for n in range(1001)], ["search_results"]),
    ("search_meta", {"deep": {"nul": ["\0"]}}, ["search_meta"]),
    ("created_at", -1, ["created_at"]),
    ("created_at", 1703169025823, ["created_at"]),
    ("created_at", "2023-12-21", ["created_at"]),
    ("created_at", 10**400, ["created_at"]),
    ("clicked", ["a"], ["clicked"]),
]


@pytest.mark.parametrize(("field", "value", "loc"), WRONG_FIELDS)
def test_wrong_fields_of_a_session(http: httpx.Client, a_session: Make, field: str, value: Any, loc: list[Any]) -> None:
    body = {**a_session(), field: value}
    assert refused(http, json.dumps(body))[0]["loc"][: len(loc) + 1] == ["body", *loc]
    if field != "session_id":
        assert http.get(SESSION, params={"session_id": body["session_id"]}).status_code == 404


@pytest.mark.parametrize("field", ["session_id", "search_query", "search_results"])
def test_missing_fields_of_a_session(http: httpx.Client, a_session: Make, field: str) -> None:
    body = a_session()
    del body[field]
    [problem] = refused(http, json.dumps(body))
    assert (problem["loc"], problem["type"]) == (["body", field], "missing")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "9" * 400 + ".5"])
def test_ranks_are_finite(http: httpx.Client, a_session: Make, number: str) -> None:
    body = a_session(search_results=[{"object_id": "a", "rank": 0.5}, {"object_id": "b", "rank": 0.25}])
    [problem] = refused(http, json.dumps(body).replace("0.25", number))
    assert problem["loc"] == ["body", "search_results", 1, "rank"]
    assert "finite" in problem["msg"]


@pytest.mark.parametrize("escape", ["\\ud800", "\\udfff", "\\ud83d x", "\\u0000"])
@pytest.mark.parametrize(
    ("loc", "template"),
    [
        (["search_query"], '{"session_id": "i", "search_query": "%s", "search_results": []}'),
        (["search_meta", "a", 1], '{"session_id": "i", "search_query": "q", "search_meta": {"a": [1, "%s"]}}'),
        (["search_meta"], '{"session_id": "i", "search_query": "q", "search_meta": {"%s": 1}}'),
    ],
)
def test_text_is_valid_unicode_without_nul(http: httpx.Client, escape: str, loc: list[Any], template: str) -> None:
    [problem] = refused(http, template % escape)
    assert problem["loc"] == ["body", *loc]


def test_emoji_written_as_escapes_are_text(http: httpx.Client, a_session: Make) -> None:
    body = a_session(search_query="dress 🙂", search_meta={"Infinity": "NaN 1e999"})
    assert http.post(SESSION, content=json.dumps(body, ensure_ascii=True)).status_code == 200
    got = http.get(SESSION, params={"session_id": body["session_id"]}).json()
    assert (got["search_query"], got["search_meta"]) == ("dress 🙂", {"Infinity": "NaN 1e999"})


def test_large_numbers_are_kept(http: httpx.Client, a_session: Make) -> None:
    body = a_session(search_meta={"n": 10**300 + 7, "i": -(2**63) - 1})
    assert http.post(SESSION, json=body).status_code == 200
    assert http.get(SESSION, params={"session_id": body["session_id"]}).json()["search_meta"] == body["search_meta"]


def test_a_hundred_thousand_results_are_too_many(http: httpx.Client, a_session: Make) -> None:
    body = a_session(search_results=[{"object_id": f"o{n}", "rank": n} for n in range(100_000)])
    [problem] = refused(http, json.dumps(body))
    assert problem["loc"] == ["body", "search_results"]
    assert "1000" in problem["msg"]


def test_a_body_with_very_many_problems_gets_a_short_answer(http: httpx.Client) -> None:
    detail = refused(http, json.dumps([{"object_id": ""}] * 50_000), path="/api/v1/items")
    assert detail[-1]["type"] == "more"


def test_nothing_long_is_echoed(http: httpx.Client, a_session: Make) -> None:
    body = a_session(**{"x" * 100_000: 1})
    refused(http, json.dumps(body))
    answer = http.get(SESSION, params={"session_id": "i" * 20_000})
    assert answer.status_code == 422
    assert len(answer.content) < 2_000


@pytest.mark.parametrize(
    ("method", "path", "loc"),
    [
        ("GET", SESSION, ["query", "session_id"]),
        ("GET", f"{SESSION}?session_id=", ["query", "session_id"]),
        ("GET", f"{SESSION}?session_id=%00", ["query", "session_id"]),
        ("DELETE", SESSION, ["query", "session_id"]),
        ("DELETE", "/api/v1/clickstream/user", ["query", "user_id"]),
        ("GET", "/api/v1/clickstream/internal/batch/sessions", ["query", "batch_id"]),
        ("GET", "/api/v1/clickstream/internal/batch/sessions?batch_id=x&limit=0", ["query", "limit"]),
        ("GET", "/api/v1/clickstream/internal/batch/sessions?batch_id=x&limit=1001", ["query", "limit"]),
        ("GET", "/api/v1/fine-tuning/task?status=finished", ["query", "status"]),
        ("GET", "/api/v1/fine-tuning/task?skip=-1", ["query", "skip"]),
        ("GET", "/api/v1/fine-tuning/task?skip=99999999999999999999", ["query", "skip"]),
        ("GET", "/api/v1/fine-tuning/task?limit=1001", ["query", "limit"]),
        ("GET", "/api/v1/fine-tuning/task/%00", ["path", "task_id"]),
        ("GET", "/api/v1/tasks?kind=laundry", ["query", "kind"]),
        ("POST", "/api/v1/clickstream/sessions/import?format=csv", ["query", "format"]),
    ],
)
def test_wrong_parameters(http: httpx.Client, method: str, path: str, loc: list[str]) -> None:
    answer = http.request(method, path)
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == loc


TRICKS = ["'; DROP TABLE sessions; --", "' OR '1'='1", "../../../etc/passwd", "%2e%2e%2f", "{{7*7}}", "$(id)", "a\\b"]


@pytest.mark.parametrize("trick", TRICKS)
def test_tricks_in_ids_are_only_text(
    http: httpx.Client, a_session: Make, new_id: Callable[[], str], trick: str
) -> None:
    session_id, user_id = f"{new_id()}{trick}", f"{new_id()}{trick}"
    body = a_session(session_id=session_id, user_id=user_id, search_results=[{"object_id": trick}])
    assert http.post(SESSION, json=body).status_code == 200
    event = {"session_id": session_id, "events": [{"event_id": trick, "object_id": trick, "event_type": trick}]}
    assert http.post(f"{SESSION}/events", json=event).status_code == 200
    got = http.get(SESSION, params={"session_id": session_id}).json()
    assert (got["user_id"], got["events"][0]["event_id"]) == (user_id, trick)
    for path in ("fine-tuning/task/", "tasks/", "models/"):
        answer = http.get(f"/api/v1/{path}{httpx.URL(path='/' + trick).raw_path.decode()[1:].replace('/', '%2F')}")
        assert answer.status_code in (404, 422, 503)
    params = {"batch_id": trick}
    assert http.get("/api/v1/clickstream/internal/batch/sessions", params=params).status_code == 404
    assert http.delete("/api/v1/clickstream/user", params={"user_id": user_id}).json() == {"deleted": 1}


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
def test_unknown_paths_are_404(http: httpx.Client, method: str) -> None:
    for path in ("/", "/api", "/api/v1/nothing", "/v2", "/api/v1/clickstream/session/"):
        answer = http.request(method, path)
        assert answer.status_code == 404
        assert "no such path" in answer.json()["detail"]


def test_wrong_methods_are_405_and_told_which_are_right(http: httpx.Client) -> None:
    answer = http.put(SESSION, json={})
    assert answer.status_code == 405
    assert answer.headers["Allow"] == "GET, POST, DELETE"
    assert "GET and POST and DELETE" in answer.json()["detail"]
    assert http.delete("/api/v1/ping").status_code == 405


@pytest.mark.parametrize("content_type", [None, "text/plain", "application/x-www-form-urlencoded", "nonsense"])
def test_json_is_understood_whatever_it_is_called(
    http: httpx.Client, a_session: Make, content_type: str | None
) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    body = b"\xef\xbb\xbf" + json.dumps(a_session()).encode()
    assert http.post(SESSION, content=body, headers=headers).status_code == 200


def test_a_compressed_body_is_refused_with_the_reason(http: httpx.Client) -> None:
    answer = http.post(SESSION, content=b"\x1f\x8b", headers={"Content-Encoding": "gzip"})
    assert answer.status_code == 422
    assert "uncompressed" in answer.text
