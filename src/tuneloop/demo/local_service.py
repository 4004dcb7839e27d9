"""The service that the demo talks to: one that runs already, or one that it starts and stops itself."""

import contextlib
import fcntl
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from tuneloop.client import Client, ConnectionFailedError, Health
from tuneloop.errors import Conflict, Unavailable
from tuneloop.settings import Settings

_START_SECONDS = 240.0
_STOP_SECONDS = 9.0
_POLL_SECONDS = 0.3
_STEADY_SECONDS = 2.0  # a service whose starter was killed answers a moment longer
_TAIL = 15

Waiting = Callable[[Health | None], None]


class LocalService:
    """`tuneloop up` with this process's settings, as a context.

    One that answers already from the same data folder is used and left running. One that is started here ends with
    this process, however that ends: it watches a pipe whose other end is only here.

    Attributes:
        url: the address of its API.
        is_ours: whether it was started here, and stops at the end.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        host = "localhost" if settings.host in ("127.0.0.1", "0.0.0.0", "::", "::1") else settings.host
        self.url = f"http://{host}:{settings.port}"
        self.is_ours = False
        self._process: subprocess.Popen[bytes] | None = None
        self._lifeline: tuple[int, int] | None = None
        self._output = tempfile.TemporaryFile()  # noqa: SIM115  # closed by `stop`

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self, waiting: Waiting) -> None:
        """Find the service or start it, and wait until all its parts are well.

        `waiting` is called while they are not, with what the service says of itself, or None while it says nothing.

        Raises:
            Conflict: the port belongs to a Tuneloop with another data folder.
            Unavailable: it did not start; the message holds the end of its log.
        """
        if not self._runs_already(waiting):
            self._launch()
            self._wait_until_healthy(waiting)

    def wait(self) -> int:
        """Wait until the service that was started here ends by itself; its exit status."""
        return self._process.wait() if self._process else 0

    def stop(self) -> None:
        """Stop what was started here, within 10 seconds; nothing else is touched."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        if self._lifeline is not None:
            for descriptor in self._lifeline:
                os.close(descriptor)
            self._lifeline = None
        self._output.close()

    def tail(self) -> list[str]:
        """The last lines that `tuneloop up` printed."""
        if self._output.closed:
            return []
        self._output.seek(0)
        return [line for line in self._output.read().decode(errors="replace").splitlines() if line.strip()][-_TAIL:]

    def _runs_already(self, waiting: Waiting) -> bool:
        """Whether a service of our data folder is there to stay; one that starts or ends is waited for."""
        until = time.monotonic() + _START_SECONDS
        while self._folder_in_use():
            health = self._health()
            if health is not None and health.ok:
                time.sleep(_STEADY_SECONDS)
                health = self._health()
                if health is not None and health.ok and self._folder_in_use():
                    return True
            if time.monotonic() > until:
                raise Unavailable(
                    f"a `tuneloop up` holds the data folder {self._settings.data_dir}, but nothing is well at "
                    f"{self.url}: is it configured for another port? Stop it, or set TUNELOOP_DATA_DIR"
                )
            waiting(health)
            time.sleep(_POLL_SECONDS)
        if self._health() is not None:
            raise Conflict(
                f"a Tuneloop with another data folder answers at {self.url}: stop it, or set TUNELOOP_PORT and "
                "TUNELOOP_MLFLOW_PORT to free ports (or pass --url to play the demo on that one)"
            )
        return False

    def _folder_in_use(self) -> bool:
        """Whether a `tuneloop up` holds the lock of our data folder."""
        try:
            with (self._settings.data_dir / "up.lock").open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def _launch(self) -> None:
        # Close-on-exec both: only the read end is passed on, so the write end closes when this process is gone.
        self._lifeline = os.pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tuneloop.cli", "up"],
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "TUNELOOP_LIFELINE_FD": str(self._lifeline[0]), "COLUMNS": "200"},
            pass_fds=(self._lifeline[0],),
            start_new_session=True,  # Ctrl-C is for the demo, which then stops the service
        )
        self.is_ours = True

    def _wait_until_healthy(self, waiting: Waiting) -> None:
        until = time.monotonic() + _START_SECONDS
        while time.monotonic() < until:
            if self._process is not None and self._process.poll() is not None:
                raise Unavailable("the service did not start:\n" + "\n".join(self.tail()))
            health = self._health()
            if health is not None and health.ok:
                return
            waiting(health)
            time.sleep(_POLL_SECONDS)
        logs = self._settings.data_dir / "logs"
        raise Unavailable(f"the service is not well after {_START_SECONDS:g} s; logs are in {logs}:\n{_tails(logs)}")

    def _health(self) -> Health | None:
        with contextlib.suppress(ConnectionFailedError), Client(self.url, retry_seconds=0, timeout=5) as client:
            return client.health()
        return None


def _tails(folder: Path) -> str:
    """The last lines of each part's log."""
    lines = []
    for log in sorted(folder.glob("*.log")):
        text = log.read_text(errors="replace").splitlines()
        lines += [f"{log.name}: {line[:200]}" for line in text[-5:]]
    return "\n".join(lines)
