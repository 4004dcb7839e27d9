"""`tuneloop up`: the whole service on one machine. Starts the parts, watches them, and stops them together."""

import os
import signal
import threading
import time
from types import FrameType

from tuneloop.errors import TuneloopError
from tuneloop.service import checks, lifeline, logs, parts, ports
from tuneloop.service.board import Board
from tuneloop.service.process import Part
from tuneloop.settings import Settings

TICK_SECONDS = 0.2
WORK_STOP_SECONDS = 6.0  # for the API and the worker, which may need to say goodbye to MLflow
MLFLOW_STOP_SECONDS = 2.0
LOG_BYTES = 20 * 1024 * 1024
HOPELESS_FAILURES = 5


def run(settings: Settings) -> int:
    """Run the service until Ctrl-C, SIGTERM or SIGHUP; the exit status.

    0 after a stop, 1 when a part cannot be kept running, 2 when the service cannot start; the reason is one line on
    stderr.
    """
    lifeline.hold(grace_seconds=WORK_STOP_SECONDS + MLFLOW_STOP_SECONDS + 1, spare=True)  # it ends its parts itself
    try:
        settings.check_exposure()
        checks.check_folder(settings.data_dir)
        lock = checks.FolderLock(settings.data_dir)
    except TuneloopError as error:
        parts.fail(error)
        return parts.CONFIG_ERROR
    try:
        ports.check(settings.host, settings.port, "TUNELOOP_PORT")
        if not settings.mlflow_tracking_uri:
            ports.check("127.0.0.1", settings.mlflow_port, "TUNELOOP_MLFLOW_PORT")
        checks.migrate(settings)
        return Supervisor(settings, lock).run()
    except TuneloopError as error:
        parts.fail(error)
        return parts.CONFIG_ERROR
    finally:
        lock.release()


class Supervisor:
    """Keeps the parts running until it is told to stop."""

    def __init__(self, settings: Settings, lock: checks.FolderLock) -> None:
        self._settings = settings
        self._board = Board(settings)
        self._stop = threading.Event()
        self._stop_now = threading.Event()
        self._ready = False
        folder = settings.data_dir / "logs"
        folder.mkdir(exist_ok=True)
        line = lifeline.Lifeline()
        environment = _environment(settings)
        names = ["api", "worker"] if settings.mlflow_tracking_uri else ["mlflow", "api", "worker"]
        self._parts = [Part(name, folder / f"{name}.log", environment, line, lock.fd) for name in names]

    def run(self) -> int:
        """Start the parts, watch them, stop them; the exit status."""
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(signum, self._on_signal)
        for part in self._parts:
            logs.rotate(part.log)
        try:
            with self._board:
                for part in self._parts:
                    part.start()
                return self._watch()
        finally:
            self._end()

    def _watch(self) -> int:
        probe_at = 0.0
        while not self._stop.wait(TICK_SECONDS):
            for part in self._parts:
                logs.bound(part.log, max_bytes=LOG_BYTES)
                if part.pid is None:
                    self._start_again(part)
                elif part.has_ended() and not self._mourn(part):
                    return 1
            if not self._ready and time.monotonic() > probe_at:
                self._probe()
                probe_at = time.monotonic() + 0.5
        return 0

    def _start_again(self, part: Part) -> None:
        if time.monotonic() >= part.restart_at:
            part.start()
            self._ready = False

    def _mourn(self, part: Part) -> bool:
        """Clean up after a part that ended by itself; False when starting it again would not help."""
        status = part.kill()
        delay = part.schedule_restart()
        if status == parts.CONFIG_ERROR and part.failures >= HOPELESS_FAILURES:
            self._board.gave_up(part.name, logs.tail(part.log, 10))
            return False
        self._board.ended(part.name, status or 0, delay, logs.tail(part.log, 1) if (status or 0) > 0 else [])
        return True

    def _probe(self) -> None:
        """Ask the API how all parts are, and say so once they are well."""
        if not all(part.is_steady() for part in self._parts):
            return
        answer = ports.get(self._settings.host, self._settings.port, "/healthz")
        if answer is not None and answer[0] == 200:
            self._ready = True
            self._board.ready()
        else:
            self._board.waiting(answer[1] if answer else None)

    def _end(self) -> None:
        self._board.stopping()
        workers = [part for part in self._parts if part.name != "mlflow"]
        servers = [part for part in self._parts if part.name == "mlflow"]
        for group, seconds in ((workers, WORK_STOP_SECONDS), (servers, MLFLOW_STOP_SECONDS)):
            for part in group:
                part.terminate()
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline and not all(part.has_ended() for part in group):
                if self._stop_now.wait(0.05):
                    break
            for part in group:
                part.kill()
        self._board.stopped()

    def _on_signal(self, _signum: int, _frame: FrameType | None) -> None:
        if self._stop.is_set():  # somebody is in a hurry
            self._stop_now.set()
        self._stop.set()


def _environment(settings: Settings) -> dict[str, str]:
    """This process's environment with every setting spelled out, so that the parts see what this process saw."""
    values = settings.model_dump(mode="json", exclude_none=True)
    spelled = {f"TUNELOOP_{name.upper()}": str(value) for name, value in values.items()}
    return {**os.environ, **spelled, "PYTHONUNBUFFERED": "1", "TQDM_DISABLE": "1"}  # no progress bars in logs
