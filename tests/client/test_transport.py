"""What the client does when the network, the service or the key fails it."""

import http.server
import subprocess
import sys
import threading
import time

import pytest

import tuneloop
from support.api import running, settings_for
from support.service import free_ports
from tuneloop.client import (
    AuthenticationError,
    Client,
    ClientError,
    ConnectionFailedError,
    InvalidRequestError,
    ModelRef,
    PermissionDeniedError,
    Task,
)
from tuneloop.client.errors import api_error
from tuneloop.errors import TuneloopError

KEYS = "shop:ingest:s1,dash:read:s2,ops:admin:gehëim"


def test_a_lost_answer_changes_nothing(bad_network, client, a_session, new_id):
    with Client(bad_network.url) as shaky:

        def losing(call):
            bad_network.lose(2)
            answer = call()
            assert bad_network.lost == 2
            bad_network.lost = 0
            return answer

        session = a_session()
        losing(lambda: shaky.add_session(**session))
        losing(lambda: shaky.add_events(session["session_id"], [{"event_id": "e", "object_id": "a"}]))
        losing(lambda: shaky.mark_irrelevant(session["session_id"]))
        assert len(losing(lambda: shaky.get_session(session["session_id"])).events) == 1

        report = losing(lambda: shaky.import_sessions([a_session(), session]))
        assert report.accepted + report.duplicates == 2

        before = len(client.batches())
        batch_id = losing(shaky.release_batch)
        assert len([batch for batch in client.batches() if batch.status == "released"]) == before
        assert session["session_id"] in {each.session_id for each in client.batch_sessions(batch_id)}

        tasks = len(client.tasks())
        task = losing(lambda: shaky.create_task(batch_id=batch_id))
        assert len(client.tasks()) == tasks + 1
        assert losing(lambda: shaky.cancel_task(task.id)).status == "canceled"
        assert losing(lambda: shaky.restart_task(task.id)).status == "pending"
        client.cancel_task(task.id)

        item = new_id()
        assert losing(lambda: shaky.upsert_items([{"object_id": item, "text": "x"}])) == 1
        losing(lambda: shaky.delete_item(item))
        losing(lambda: shaky.forget_session(session["session_id"]))


def test_a_ubi_import_is_sent_again_from_its_beginning(bad_network, client, new_id):
    query_id = new_id()
    records = [
        {"query_id": query_id, "user_query": "red", "query_response_hit_ids": ["a", "b"]},
        {
            "query_id": query_id,
            "user_query": "red",
            "action_name": "click",
            "event_attributes": {"object": {"object_id": "b"}},
        },
    ]
    with Client(bad_network.url) as shaky:
        bad_network.lose(1)
        report = shaky.import_sessions(iter(records), format="ubi")
    assert bad_network.lost == 1 and report.duplicates == 1 and report.rejected_total == 0
    assert [event.object_id for event in client.get_session(query_id).events] == ["b"]


def test_a_service_that_starts_later_is_waited_for(tmp_path):
    (port,) = free_ports(1)
    answers = []

    def ask() -> None:
        with Client(f"http://127.0.0.1:{port}", retry_seconds=60) as early:
            answers.append(early.ping())

    asking = threading.Thread(target=ask)
    asking.start()
    time.sleep(0.5)
    server = _StandIn(port)
    with server:
        asking.join(timeout=60)
    assert answers == [None] and server.unavailable == 0


class _StandIn(http.server.ThreadingHTTPServer):
    """What a proxy in front of the service says while that restarts, and afterwards."""

    def __init__(self, port: int) -> None:
        self.unavailable = 2
        self.authorizations: list[str | None] = []
        super().__init__(("127.0.0.1", port), _Handler)

    def __enter__(self) -> "_StandIn":
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _StandIn

    def do_GET(self) -> None:
        self.server.authorizations.append(self.headers.get("Authorization"))
        if self.server.unavailable:
            self.server.unavailable -= 1
            self.send_response(503)
            self.send_header("Retry-After", "0")
            body = b"<html>back in a moment</html>"
        elif self.path == "/weights":
            self.send_response(200)
            body = b"weights"
        else:
            self.send_response(200)
            body = b'{"ping": "pong"}' if self.path.endswith("ping") else b"<html>hello</html>"
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def test_nobody_there_is_one_sentence_that_helps():
    (port,) = free_ports(1)
    with Client(f"http://127.0.0.1:{port}", retry_seconds=0) as alone:
        for call in (alone.ping, alone.health, alone.batches):
            with pytest.raises(ConnectionFailedError, match="is `tuneloop up` running"):
                call()


def test_another_program_is_told_apart():
    (port,) = free_ports(1)
    with _StandIn(port) as server, Client(f"http://127.0.0.1:{port}", retry_seconds=0) as lost:
        with pytest.raises(ClientError, match="503"):
            lost.batches()
        server.unavailable = 0
        with pytest.raises(ClientError, match="is this a Tuneloop service"):
            lost.batches()


@pytest.mark.parametrize("address", ["localhost:5000", "ftp://x", "", "http://", "http://localhost:port"])
def test_an_address_that_is_none(address, monkeypatch):
    monkeypatch.setenv("TUNELOOP_URL", "nonsense")
    with pytest.raises(InvalidRequestError, match="no address"):
        Client(address)


def test_the_environment_names_service_and_key(tmp_path, monkeypatch):
    with running(settings_for(tmp_path, api_keys=KEYS)) as url:
        monkeypatch.setenv("TUNELOOP_URL", url)
        monkeypatch.setenv("TUNELOOP_API_KEY", "gehëim")
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")  # leads nowhere, and must not be asked for localhost
        with tuneloop.Client() as client:
            assert client.batches() == []


def test_keys_and_roles(tmp_path):
    with running(settings_for(tmp_path, api_keys=KEYS)) as url:
        with Client(url) as nobody, pytest.raises(AuthenticationError):
            nobody.batches()
        with Client(url, "wrong") as stranger, pytest.raises(AuthenticationError):
            stranger.batches()
        with Client(url, "s1") as shop:
            shop.ping()
            shop.add_session("s", "q", [{"object_id": "a"}])
            with pytest.raises(PermissionDeniedError, match="ingest"):
                shop.batches()
        with Client(url, "s2") as dash:
            assert len(dash.batches()) == 1
            with pytest.raises(PermissionDeniedError):
                dash.release_batch()
    with pytest.raises(InvalidRequestError):
        Client(url, "line\nbreak")


def test_health_names_each_part(client):
    health = client.health()  # no worker and no MLflow stand behind this API
    assert not health.ok
    assert {name: part.ok for name, part in health.parts.items()} == {"database": True, "queue": False, "mlflow": False}
    assert "worker" in health.parts["queue"].detail


def test_the_key_goes_to_no_other_address(tmp_path):
    with running(settings_for(tmp_path, api_keys=KEYS)) as url, Client(url, "gehëim", retry_seconds=30) as client:
        (port,) = free_ports(1)
        pieces = []
        with _StandIn(port) as elsewhere:
            client._transport.download(f"http://127.0.0.1:{port}/weights", lambda got: pieces.append(b"".join(got)))
        assert pieces == [b"weights"]
        assert elsewhere.authorizations == [None, None, None]  # two attempts met a 503


def test_everything_is_a_tuneloop_error():
    assert issubclass(ClientError, TuneloopError)
    for status in (400, 401, 403, 404, 409, 413, 418, 422, 429, 500, 503):
        error = api_error(status, "reason")
        assert (error.status, error.detail, str(error)) == (status, "reason", "reason")
    problems = [{"loc": ["body", "settings", "max_runs"], "msg": "too small", "type": "x"}, {"loc": [], "msg": "more"}]
    assert api_error(422, problems).detail == "settings.max_runs: too small; more"
    assert api_error(500, None).detail == "the service answered 500"


def test_answers_of_a_newer_service_are_read():
    task = Task.parse(
        {
            "id": "t",
            "fine_tuning_method": "m",
            "status": "processing",
            "created_at": "2023-12-21T14:30:25.823000",
            "colour": "red",
            "progress": {"stage": "training", "gpu": 3, "main_metric": {"name": "m", "value": 1.0, "unit": "x"}},
        }
    )
    assert task.progress.stage == "training" and task.progress.main_metric.best is None
    assert task.created_at.isoformat() == "2023-12-21T14:30:25.823000+00:00"


def test_model_references():
    assert ModelRef.parse("shop") == ModelRef("shop", "latest")
    assert ModelRef.parse("shop/3") == ModelRef("shop", "3")
    assert ModelRef.parse("shop/@champion") == ModelRef.parse("shop@champion") == ModelRef("shop", "@champion")


def test_the_client_loads_no_heavy_library():
    script = "import tuneloop, sys; tuneloop.Client(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert {"torch", "transformers", "mlflow", "pydantic", "sqlalchemy", "numpy", "pyarrow"} & {
        *done.stdout.split()
    } == set()
