"""A task that was asked for, followed from a script: `client.fit(dataset)` gives one."""

from __future__ import annotations

import sys
import time
from typing import IO, TYPE_CHECKING

from tuneloop.client.errors import JobFailedError
from tuneloop.client.types import Registered, Task

if TYPE_CHECKING:
    from tuneloop.client.client import Client

_POLL_SECONDS = 1.0


class Job:
    """A task, and what can be done with it.

    Attributes:
        id: of the task.
    """

    def __init__(self, client: Client, task_id: str) -> None:
        self._client = client
        self.id = task_id

    def __repr__(self) -> str:
        return f"Job({self.id!r})"

    @property
    def task(self) -> Task:
        """All that is known of it now."""
        return self._client.get_task(self.id)

    def status(self) -> str:
        """`pending`, `processing`, `done`, `canceled` or `error`."""
        return self.task.status

    def stream_logs(self, file: IO[str] | None = None, *, poll_seconds: float = _POLL_SECONDS) -> None:
        """Print what it prints until it is over, from its first line on, and last how it ended.

        Args:
            file: where to; standard output by default.
            poll_seconds: seconds between looks.
        """
        out = file if file is not None else sys.stdout
        after, last = None, ""
        while True:
            task = self.task  # before the lines: when it is over, they are all there
            while (log := self._client.task_log(self.id, after=after)).lines:
                print(*log.lines, sep="\n", file=out, flush=True)
                after, last = log.next, log.lines[-1]
            if task.is_over:
                end = f"{task.status}: {task.detail}" if task.detail else task.status
                if end != last:  # most tasks say it themselves
                    print(end, file=out, flush=True)
                return
            time.sleep(poll_seconds)

    def wait(self, *, timeout: float | None = None) -> Task:
        """Wait until it is over, however it ends.

        Raises:
            WaitTimeoutError: it was not over in so many seconds; it goes on.
        """
        return self._client.wait(self.id, timeout=timeout)

    def result(self, *, timeout: float | None = None) -> Task:
        """Wait until it is done.

        Raises:
            JobFailedError: it failed, or was canceled; the message says why.
            WaitTimeoutError: it was not over in so many seconds; it goes on.
        """
        task = self.wait(timeout=timeout)
        if task.status != "done":
            raise JobFailedError(f"task {self.id} ended as {task.status}: {task.detail or 'it does not say why'}")
        return task

    def cancel(self) -> Task:
        """Stop it, within seconds also while it is worked on.

        Raises:
            ConflictError: it is over.
        """
        return self._client.cancel_task(self.id)

    def register_model(self, name: str, *, description: str | None = None) -> Registered:
        """Wait until it is done, and register its best model as a new version of `name`.

        Raises:
            JobFailedError: it failed, or was canceled.
            ConflictError: it found no model worth keeping.
        """
        self.result()
        return self._client.register_model(name, task_id=self.id, description=description)
