"""One part of the service as a process of its own, with everything that it starts."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import psutil

from tuneloop.service.lifeline import MARK_VARIABLE, Lifeline, kill_marked

FIRST_DELAY_SECONDS = 0.5
LONGEST_DELAY_SECONDS = 10.0
HEALTHY_SECONDS = 60.0
STEADY_SECONDS = 2.0


class Part:
    """A process that is started, watched, and ended with its whole group.

    It leads a session and a process group of its own, so that Ctrl-C in the terminal reaches the supervisor alone, and
    the group can be ended as one. Its output is appended to `log`.
    """

    def __init__(self, name: str, log: Path, environment: Mapping[str, str], line: Lifeline, lock_fd: int) -> None:
        """`environment` is what the process sees; it hangs on `line`, and keeps `lock_fd` open."""
        self.name = name
        self.log = log
        self.failures = 0  # in a row, without a healthy minute in between
        self.restart_at = 0.0  # monotonic seconds
        self._environment = environment
        self._line = line
        self._lock_fd = lock_fd
        self._mark = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0

    @property
    def pid(self) -> int | None:
        """The process id, while there is a process."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start the process."""
        environment = self._line.environment(self._environment)
        self._mark = environment[MARK_VARIABLE]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tuneloop.cli", self.name],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
                pass_fds=(self._line.fd, self._lock_fd),
            )
        self._started_at = time.monotonic()

    def has_ended(self) -> bool:
        """Whether the process is there no more. It is not reaped yet, so its id still names its group."""
        if self._process is None:
            return True
        try:
            return psutil.Process(self._process.pid).status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    def is_steady(self) -> bool:
        """Whether the process runs; after a failure, whether it has done so for a moment."""
        return self._process is not None and (not self.failures or time.monotonic() - self._started_at > STEADY_SECONDS)

    def terminate(self) -> None:
        """Ask the process to end."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()

    def kill(self) -> int | None:
        """End the process and all that it started at once; the exit status, negative when a signal ended it."""
        if self._process is None:
            return None
        with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS: a group of zombies
            os.killpg(self._process.pid, signal.SIGKILL)
        status = self._process.wait()
        kill_marked(self._mark)
        self._process = None
        return status

    def schedule_restart(self) -> float:
        """Choose the moment of the next start; the seconds until then: 0.5, doubled at each failure in a row, to 10."""
        now = time.monotonic()
        self.failures = 1 if now - self._started_at > HEALTHY_SECONDS else self.failures + 1
        delay = min(FIRST_DELAY_SECONDS * 2.0 ** min(self.failures - 1, 10), LONGEST_DELAY_SECONDS)
        self.restart_at = now + delay
        return delay
