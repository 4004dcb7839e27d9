"""MLflow that is killed, slow to come back, or answers once too few."""

import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.mlflow import MlflowServer, free_port
from tuneloop.errors import Unavailable
from tuneloop.tracking import MetricStream, Tracking


class Canceled(Exception):
    pass


def test_everything_waits_for_a_server_that_was_killed(
    own_mlflow_server: MlflowServer, mlflow_model: Path, tmp_path: Path
) -> None:
    server = own_mlflow_server
    tracking = Tracking(server.url, retry_seconds=200)
    experiment = tracking.open_iteration("method", "b1")
    first = tracking.create_run(experiment, name="run 1", params={"lr": 0.1}, tags={"tuneloop.task_id": "t1"})
    stream = MetricStream(tracking, first)
    stream.log({"train_loss": 1.0}, step=0)
    server.kill()
    began = time.monotonic()
    for step in range(1, 50):
        stream.log({"train_loss": 1.0 / step}, step=step)
    assert time.monotonic() - began < 1, "training waited for MLflow"
    restart = threading.Timer(3, server.start, kwargs={"wait": False})
    restart.start()
    second = tracking.create_run(experiment, name="run 2", params={"lr": 0.2}, tags={"tuneloop.task_id": "t1"})
    stream.close()
    restart.join()
    assert [run.run_id for run in tracking.task_runs(experiment, "t1")] == [first, second]
    assert tracking.get_run(second).params == {"lr": "0.2"}
    assert [step for step, _ in tracking.metric_history(first, "train_loss")] == list(range(50))

    # Killed while a model is on its way; the same folder, the same runs afterwards.
    storing = threading.Thread(target=tracking.store_model, args=(second, mlflow_model))
    storing.start()
    server.kill()
    server.start(wait=False)
    storing.join()
    assert tracking.has_model(second)
    copy = tracking.download_model(second, tmp_path / "copy")
    assert {p.name for p in copy.rglob("*")} == {p.name for p in mlflow_model.rglob("*")}
    assert server.stop() == 0


def test_a_server_that_stays_away_is_an_error_that_says_so() -> None:
    tracking = Tracking(f"http://127.0.0.1:{free_port()}", retry_seconds=1)
    with pytest.raises(Unavailable, match="does not answer"):
        tracking.open_iteration("method", "b1")
    stream = MetricStream(tracking, "0" * 32)
    stream.log({"train_loss": 1.0}, step=0)
    with pytest.raises(Unavailable):
        stream.close()
    with pytest.raises(Unavailable):
        stream.log({"train_loss": 1.0}, step=1)


@pytest.mark.parametrize("silent", [False, True])
def test_a_cancel_is_heard_while_mlflow_is_away(silent: bool, proxy: "Callable[..., Any]") -> None:
    """`silent`: the server takes the connection and never answers."""
    url = proxy("http://127.0.0.1:1", silent=True).url if silent else f"http://127.0.0.1:{free_port()}"
    asked = threading.Event()

    def check() -> None:
        if asked.is_set():
            raise Canceled

    tracking = Tracking(url, check=check)
    stream = MetricStream(tracking, "0" * 32)
    stream.log({"train_loss": 1.0}, step=0)
    timer = threading.Timer(1, asked.set)
    timer.start()
    began = time.monotonic()
    with pytest.raises(Canceled):
        tracking.open_iteration("method", "b1")
    with pytest.raises(Canceled):
        stream.close()
    assert time.monotonic() - began < 30, "the cancel waited for MLflow"
    timer.join()


def test_a_lost_answer_leaves_no_second_run(mlflow_uri: str, method: str, proxy: "Callable[..., Any]") -> None:
    lossy = proxy(mlflow_uri, lose={"runs/create", "experiments/create", "log-batch", "runs/update"})
    tracking = Tracking(lossy.url, retry_seconds=60)
    experiment = tracking.open_iteration(method, "b1")
    run_id = tracking.create_run(experiment, name="run", params={"lr": 1}, tags={"tuneloop.task_id": "t1"})
    tracking.end_run(run_id, "FINISHED")
    assert lossy.lost == {"runs/create", "experiments/create", "log-batch", "runs/update"}
    (run,) = Tracking(mlflow_uri).task_runs(experiment, "t1")
    assert (run.run_id, run.status, run.params) == (run_id, "FINISHED", {"lr": "1"})


class Proxy:
    """Passes requests on; loses the answer to the first of each kind named in `lose`, or never answers at all."""

    def __init__(self, target: str, *, lose: set[str] | None = None, silent: bool = False) -> None:
        self.lost: set[str] = set()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                if silent:
                    time.sleep(20)
                    return
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                headers = {"Content-Type": self.headers.get("Content-Type", "application/json")}
                got = httpx.request(self.command, target + self.path, content=body, headers=headers, timeout=60)
                for kind in (lose or set()) - proxy.lost:
                    if kind in self.path:
                        proxy.lost.add(kind)
                        self.connection.close()
                        return
                self.send_response(got.status_code)
                self.send_header("Content-Type", got.headers.get("Content-Type", "application/json"))
                self.send_header("Content-Length", str(len(got.content)))
                self.end_headers()
                self.wfile.write(got.content)

            do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = answer

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def proxy() -> Iterator[Callable[..., Proxy]]:
    made: list[Proxy] = []

    def make(*args: Any, **options: Any) -> Proxy:
        made.append(Proxy(*args, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()
