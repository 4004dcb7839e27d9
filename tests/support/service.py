"""The real service, as processes of its own on free ports, with a data folder that goes away."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from support.mlflow import lay_database
from tuneloop.service.lifeline import Lifeline

PATIENCE = 240.0  # seconds; what is awaited comes sooner, even where others take the processors
STOP_SECONDS = 10.0  # what `tuneloop up` promises

_lifeline = Lifeline()  # a test run that is killed leaves no service behind


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on at this moment."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def wait_until(condition: Callable[[], Any], *, seconds: float = PATIENCE, what: str = "it") -> Any:
    """The first true value of `condition`; fails the test after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            pytest.fail(f"waited {seconds:g} s for {what}")
        time.sleep(0.1)


class Service:
    """`tuneloop up`, or with `command` a part alone, on a data folder; started with `start`.

    `url` and `mlflow_url` are its addresses, `http` a client for `url`; `output` is what it printed.
    """

    def __init__(self, folder: Path, *, command: str = "up", new: bool = False, **settings: Any) -> None:
        """`settings` are fields of `Settings`; ports are chosen, the data folder is `{folder}/data`.

        That folder has MLflow's database already, unless the service is to begin from nothing, as `new`.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.command = command
        port, mlflow_port = free_ports(2)
        self.settings = {"data_dir": folder / "data", "port": port, "mlflow_port": mlflow_port, **settings}
        self.data_dir = Path(self.settings["data_dir"])
        self._begins_with_database = not new and self.data_dir == folder / "data"
        self.url = f"http://127.0.0.1:{self.settings['port']}"
        self.mlflow_url = self.settings.get("mlflow_tracking_uri") or f"http://127.0.0.1:{self.settings['mlflow_port']}"
        self.http = httpx.Client(base_url=self.url, timeout=60, trust_env=False)
        self.process: subprocess.Popen[bytes] | None = None
        self._log = folder / "output.txt"

    @property
    def environment(self) -> dict[str, str]:
        """The environment that the service and commands against it run in."""
        plain = {name: value for name, value in os.environ.items() if not name.startswith(("TUNELOOP_", "MLFLOW_"))}
        chosen = {f"TUNELOOP_{name.upper()}": str(value) for name, value in self.settings.items() if value is not None}
        return {**plain, "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1", **chosen}

    @property
    def output(self) -> str:
        """What the service printed."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def start(self, *, wait: bool = True) -> Service:
        """Start it; with `wait`, return when all of it is well."""
        if self._begins_with_database:
            lay_database(self.data_dir)
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tuneloop.cli", self.command],
                cwd=self.folder,  # no `.env` of the repository
                env=_lifeline.environment(self.environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=(_lifeline.fd,),
            )
        if wait:
            self.wait_ready()
        return self

    def wait_ready(self, seconds: float = PATIENCE) -> None:
        """Wait until every part answers."""

        def ready() -> bool:
            assert self.process is not None
            if self.process.poll() is not None:
                pytest.fail(f"the service ended with {self.process.returncode}: {self.output}{self.logs()}")
            return self.is_healthy()

        try:
            wait_until(ready, seconds=seconds, what="the service to be ready")
        except BaseException:
            print(self.output, self.logs())
            raise

    def is_healthy(self) -> bool:
        """Whether every part answers now."""
        try:
            return self.http.get("/healthz", timeout=5).status_code == 200
        except httpx.HTTPError:
            return False

    def logs(self) -> str:
        """The last lines of every part's log."""
        parts = sorted(self.data_dir.glob("logs/*.log"))
        return "".join(f"\n--- {part.name}\n{part.read_text(errors='replace')[-3000:]}" for part in parts)

    def pids(self) -> dict[str, int]:
        """The process ids of the parts that run now, by name."""
        found = {}
        for child in self._top().children():
            with contextlib.suppress(psutil.Error):
                command = child.cmdline()
                if "tuneloop.cli" in command:
                    found[command[-1]] = child.pid
        return found

    def kill_part(self, part: str) -> None:
        """Kill a part with -9, and wait until another was started."""
        killed = self.pids()[part]
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: self.pids().get(part) not in (None, killed), what=f"another {part}")

    def family(self) -> list[psutil.Process]:
        """The process itself and everything below it, now."""
        return [self._top(), *self._top().children(recursive=True)]

    def stop(self, signum: int = signal.SIGINT) -> int:
        """Ask it to end and wait; the exit status. Fails the test when it takes too long or leaves something."""
        assert self.process is not None
        family = self.family()
        self.process.send_signal(signum)
        try:
            status = self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            pytest.fail(f"the service did not stop: {self.output}{self.logs()}")
        left = [process for process in family if is_alive(process)]
        assert not left, f"outlived the service: {left}"
        return status

    def kill(self) -> None:
        """End it with kill -9, and wait until its parts noticed."""
        assert self.process is not None
        family = self.family()
        self.process.kill()
        self.process.wait()
        wait_until(lambda: not any(map(is_alive, family)), what="the parts to end")

    def close(self) -> None:
        """End whatever of it still runs."""
        self.http.close()
        if self.process is None or self.process.poll() is not None:
            return
        family = self.family()
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP_SECONDS)
        for process in family:
            if is_alive(process):
                process.kill()
        self.process.wait()

    def wait_task(
        self, task_id: str, *statuses: str, seconds: float = PATIENCE, where: str = "/api/v1/fine-tuning/task"
    ) -> dict[str, Any]:
        """The task, once its status is one of `statuses` (default: any final one)."""
        wanted = statuses or ("done", "canceled", "error")
        task: dict[str, Any] = {}

        def arrived() -> bool:
            nonlocal task
            with contextlib.suppress(httpx.TransportError):  # the API may be about to be restarted
                task = self.http.get(f"{where}/{task_id}").raise_for_status().json()
            return task.get("status") in wanted

        try:
            wait_until(arrived, seconds=seconds, what=f"the task to be {' or '.join(wanted)}")
        except BaseException:
            print(task, self.logs())
            raise
        return task

    def _top(self) -> psutil.Process:
        assert self.process is not None
        return psutil.Process(self.process.pid)


def is_alive(process: psutil.Process) -> bool:
    """Whether the process runs; one that only waits to be reaped does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One running service for all tests that leave it well."""
    running = Service(tmp_path_factory.mktemp("service"), new=True)
    try:
        yield running.start()
    finally:
        running.close()


@pytest.fixture
def make_service(tmp_path: Path) -> Iterator[Callable[..., Service]]:
    """Makes services for tests that kill; each has a folder of its own unless `folder` is given."""
    made: list[Service] = []

    def make(*, folder: Path | None = None, **settings: Any) -> Service:
        made.append(Service(folder or tmp_path / f"service{len(made)}", **settings))
        return made[-1]

    yield make
    for each in made:
        each.close()
