import io
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog

from support.api import running, settings_for
from support.mlflow import MlflowServer
from tuneloop.database import Database
from tuneloop.tasks import workers

Make = Callable[..., dict[str, Any]]
Serve = Callable[..., httpx.Client]


def test_ping(http: httpx.Client) -> None:
    assert http.get("/api/v1/ping").json() == {"ping": "pong"}


def test_health_names_the_parts_that_are_down(serve: Serve) -> None:
    answer = serve().get("/healthz")
    assert answer.status_code == 503
    health = answer.json()
    assert health["status"] == "error"
    assert {name: part["ok"] for name, part in health["parts"].items()} == {
        "database": True,
        "queue": False,
        "mlflow": False,
    }
    assert "tuneloop worker" in health["parts"]["queue"]["detail"]


def test_health_is_ok_when_every_part_answers(tmp_path: Path, own_mlflow_server: MlflowServer) -> None:
    settings = settings_for(tmp_path, mlflow_tracking_uri=own_mlflow_server.url)
    with running(settings) as url, httpx.Client(base_url=url, timeout=30) as http:
        database = Database(settings.url)
        with database.write() as connection:
            workers.register(connection, "w")
        database.dispose()
        answer = http.get("/healthz")
        assert (answer.status_code, answer.json()["status"]) == (200, "ok"), answer.text

        os.kill(own_mlflow_server.pid, signal.SIGSTOP)  # it accepts connections and says nothing
        try:
            hung = http.get("/healthz")
        finally:
            os.kill(own_mlflow_server.pid, signal.SIGCONT)
        assert hung.status_code == 503
        assert [name for name, part in hung.json()["parts"].items() if not part["ok"]] == ["mlflow"]


def test_a_database_that_is_gone_is_503(tmp_path: Path, postgresql_url: Callable[[], str]) -> None:
    import psycopg

    database_url = postgresql_url()
    settings = settings_for(tmp_path, database_url=database_url)
    with running(settings) as url, httpx.Client(base_url=url, timeout=30) as http:
        assert http.get("/api/v1/items").status_code == 200
        server, _, name = database_url.rpartition("/")
        with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
        answer = http.get("/api/v1/items")
        assert (answer.status_code, "database" in answer.json()["detail"]) == (503, True)
        assert answer.headers["Retry-After"]
        health = http.get("/healthz")
        assert (health.status_code, health.json()["parts"]["database"]["ok"]) == (503, False)
        assert http.get("/metrics").status_code == 200
        assert http.get("/api/v1/ping").status_code == 200


def test_metrics_count_what_happened(serve: Serve, a_session: Make) -> None:
    http = serve()
    body = a_session()
    http.post("/api/v1/clickstream/session", json=body)
    http.post("/api/v1/clickstream/session", json=body)
    event = {"session_id": body["session_id"], "events": [{"event_id": "e", "object_id": "a"}]}
    http.post("/api/v1/clickstream/session/events", json=event)
    http.post("/api/v1/items", json=[{"object_id": "secret-item", "text": "x"}] * 2)
    http.get("/api/v1/items/secret-item")
    http.get("/nothing/secret-item")
    http.post("/api/v1/fine-tuning/task", json={"fine_tuning_method": "Default Fine Tuning Method"})
    text = http.get("/metrics").text
    for line in (
        "tuneloop_sessions_total 1.0",
        "tuneloop_events_total 1.0",
        "tuneloop_items_upserted_total 1.0",
        'tuneloop_tasks{status="pending"} 1.0',
        'tuneloop_tasks{status="done"} 0.0',
        'tuneloop_http_requests_total{method="POST",route="/api/v1/clickstream/session",status="200"} 2.0',
        'tuneloop_http_requests_total{method="GET",route="/api/v1/items/{object_id:opaque}",status="200"} 1.0',
        'tuneloop_http_requests_total{method="GET",route="unmatched",status="404"} 1.0',
        'tuneloop_http_request_seconds_count{method="GET",route="/api/v1/items/{object_id:opaque}"} 1.0',
    ):
        assert line in text.splitlines()
    assert "secret-item" not in text


def test_logs_hold_no_ids_queries_or_keys(serve: Serve, a_session: Make) -> None:
    stream = io.StringIO()
    before = structlog.get_config()
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(stream), cache_logger_on_first_use=False)
    try:
        http = serve(api_keys="boss:admin:s3cret-key")
        http.headers["Authorization"] = "Bearer s3cret-key"
        body = a_session(session_id="s3cret-session", search_query="s3cret query", user_id="s3cret-user")
        assert http.post("/api/v1/clickstream/session", json=body).status_code == 200
        http.post("/api/v1/clickstream/session", json={**body, "search_query": "other s3cret"})
        http.get("/api/v1/clickstream/session", params={"session_id": "s3cret-session"})
        http.get("/api/v1/items/s3cret-item")
        http.get("/s3cret-path?s3cret=1")
        http.delete("/api/v1/clickstream/user", params={"user_id": "s3cret-user"})
    finally:
        structlog.configure(**before)
    logged = re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue())
    assert "s3cret" not in logged
    assert logged.count("request ") == 6
    assert "route=/api/v1/clickstream/session" in logged
    assert "status=409" in logged
    assert "key=boss" in logged


def test_the_app_starts_without_the_heavy_libraries(tmp_path: Path) -> None:
    program = """
import sys
from fastapi.testclient import TestClient
from tuneloop.api.app import create_app
from tuneloop.settings import Settings
with TestClient(create_app(Settings(_env_file=None))) as http:
    assert http.get("/api/v1/fine-tuning/methods").json()["methods"]
    assert http.get("/openapi.json").status_code == 200
print([name for name in ("torch", "transformers", "mlflow", "optuna", "sentence_transformers") if name in sys.modules])
"""
    environment = {**os.environ, "TUNELOOP_DATA_DIR": str(tmp_path)}
    answer = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert answer.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("path", ["/api/v1/items", "/v1/nothing"])
def test_unforeseen_errors_are_json_without_details(
    serve: Serve, tmp_path: Path, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    http = serve()
    database = Database(settings_for(tmp_path / "data").url)
    with database.write() as connection:
        connection.exec_driver_sql("INSERT INTO items (object_id, fields, updated_at) VALUES ('a', '{broken', 0)")
    database.dispose()
    answer = http.get(path)
    if path == "/api/v1/items":
        assert answer.status_code == 500
        assert answer.json() == {"detail": "something broke in Tuneloop; its log says what"}
    else:
        assert answer.json()["error"]["code"] == "not_found"
    assert http.get("/api/v1/ping").status_code == 200
