"""Keys and roles, on every route there is and on those there are not."""

import re
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from support.api import running, settings_for
from tuneloop.api.app import create_app
from tuneloop.errors import TuneloopError

KEYS = "shop:ingest:ingest-secret,search:read:read-secret,boss:admin:admin:secret-ü"
SECRETS = {"ingest": "ingest-secret", "read": "read-secret", "admin": "admin:secret-ü"}
OPEN = {("GET", "/api/v1/ping"), ("GET", "/healthz")}
INGEST = {
    ("POST", "/api/v1/clickstream/session"),
    ("POST", "/api/v1/clickstream/session/events"),
    ("POST", "/api/v1/clickstream/session/irrelevant"),
    ("POST", "/api/v1/clickstream/sessions/import"),
}
INFER = {
    ("POST", "/v1/embeddings"),
    ("POST", "/api/v1/models/{name}/versions/{version}/embed"),
    ("POST", "/api/v1/models/{name}/versions/{version}/rank"),
    ("POST", "/api/v1/models/{name}/versions/{version}/predict"),
}
MORE = {("GET", "/docs"), ("GET", "/docs/assets/swagger-ui.css"), ("GET", "/openapi.json")} | {
    (method, path) for method in ("GET", "POST", "PUT", "DELETE", "PATCH") for path in ("/", "/nothing", "/v1/nothing")
}


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    settings = settings_for(tmp_path_factory.mktemp("locked"), api_keys=KEYS)
    with running(settings) as url, httpx.Client(base_url=url, timeout=30) as http:
        yield http


def bearer(role: str) -> dict[str, str | bytes]:
    return {"Authorization": b"Bearer " + SECRETS[role].encode()}  # type: ignore[dict-item]


def routes(http: httpx.Client) -> set[tuple[str, str]]:
    document = http.get("/openapi.json", headers=bearer("admin")).json()
    documented = {(method.upper(), path) for path, item in document["paths"].items() for method in item}
    assert len(documented) > 25
    return documented | MORE


def call(http: httpx.Client, method: str, path: str, **more: object) -> httpx.Response:
    return http.request(method, re.sub(r"\{\w+\}", "x", path), **more)  # type: ignore[arg-type]


def test_without_a_key_every_call_but_ping_and_healthz_is_401(locked: httpx.Client) -> None:
    for method, path in routes(locked):
        answer = call(locked, method, path)
        if (method, path) in OPEN:
            assert answer.status_code in (200, 503)
        else:
            assert (answer.status_code, path) == (401, path)
            assert answer.headers["WWW-Authenticate"] == "Bearer"
            body = answer.json()
            assert "Bearer" in (body["error"]["message"] if path.startswith("/v1") else body["detail"])


@pytest.mark.parametrize(
    "header",
    [
        "Bearer wrong",
        "Bearer",
        "ingest-secret",
        "Basic ingest-secret",
        "Bearer ingest-secre",
        "Bearer ingest-secret2",
        "Bearer shop:ingest:ingest-secret",
    ],
)
def test_with_a_wrong_key_every_call_is_401(locked: httpx.Client, header: str) -> None:
    for method, path in routes(locked) - OPEN:
        assert (call(locked, method, path, headers={"Authorization": header}).status_code, path) == (401, path)


@pytest.mark.parametrize("role", ["ingest", "read", "admin"])
def test_a_role_may_do_what_it_is_for_and_nothing_else(locked: httpx.Client, role: str) -> None:
    for method, path in routes(locked) - OPEN:
        allowed = {
            "ingest": (method, path) in INGEST,
            "read": method == "GET" or (method, path) in INFER,
            "admin": True,
        }[role]
        answer = call(locked, method, path, headers=bearer(role))
        assert (answer.status_code in (401, 403), method, path) == (not allowed, method, path)
        if not allowed:
            assert answer.status_code == 403


def test_the_scheme_is_written_as_one_likes(locked: httpx.Client) -> None:
    assert locked.get("/api/v1/items", headers={"Authorization": "bearer  read-secret"}).status_code == 200


def test_two_keys_in_one_request_are_refused(locked: httpx.Client) -> None:
    headers = [("Authorization", "Bearer wrong"), ("Authorization", "Bearer read-secret")]
    assert locked.get("/api/v1/items", headers=headers).status_code == 401


def test_the_key_is_checked_before_the_body(locked: httpx.Client) -> None:
    for headers, status in ((None, 401), (bearer("read"), 403)):
        answer = locked.post("/api/v1/clickstream/session", content=b"{broken", headers=headers)
        assert answer.status_code == status
    host, port = str(locked.base_url).removeprefix("http://").rstrip("/").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(b"POST /api/v1/items HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 401 ")


def test_a_client_without_a_key_sees_the_answer_to_a_large_body(locked: httpx.Client) -> None:
    answer = locked.post("/api/v1/clickstream/sessions/import", content=b" " * 30_000_000)
    assert answer.status_code == 401


def test_open_to_other_machines_without_keys_it_does_not_start(tmp_path: Path) -> None:
    for host in ("0.0.0.0", "::", "192.168.1.2", "example.org"):
        with pytest.raises(TuneloopError, match="TUNELOOP_API_KEYS"):
            create_app(settings_for(tmp_path, host=host))
        create_app(settings_for(tmp_path, host=host, api_keys=KEYS))
    for host in ("127.0.0.1", "localhost", "::1"):
        create_app(settings_for(tmp_path, host=host))


def test_pages_of_other_sites_cannot_write_to_an_open_service(api_url: str) -> None:
    cross = {"Sec-Fetch-Site": "cross-site", "Origin": "https://example.org"}
    with httpx.Client(base_url=api_url) as http:
        assert http.post("/api/v1/items", json=[], headers=cross).status_code == 403
        assert http.post("/api/v1/items", json=[], headers={"Sec-Fetch-Site": "same-origin"}).status_code == 200
        assert http.get("/api/v1/items", headers=cross).status_code == 200


def test_reading_keys_ask_for_answers_and_write_no_tables(locked: httpx.Client) -> None:
    path = "/api/v1/models/churn/versions/1/predict"
    bodies = {"answered": {"entities": [{"id": 1}]}, "written": {"source": "upload:x", "output": "p.parquet"}}
    statuses = {
        (role, way): locked.post(path, json=body, headers=bearer(role)).status_code
        for role in ("read", "admin")
        for way, body in bodies.items()
    }
    # Without MLflow what is allowed comes as far as 503.
    assert statuses == {
        ("read", "answered"): 503,
        ("read", "written"): 403,
        ("admin", "answered"): 503,
        ("admin", "written"): 503,
    }
