"""The client's calls about tasks of any kind."""

import os
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from tuneloop.client.errors import ClientError, ConflictError, WaitTimeoutError
from tuneloop.client.transport import Transport, segment
from tuneloop.client.types import Task, TaskKind, TaskLog, TaskStatus

_PATH = "/api/v1/tasks"


class TaskCalls:
    """Asked-for work: fine-tunings, embeddings, models of tables, predictions. Mixed into `Client`."""

    _transport: Transport

    def get_task(self, task_id: str) -> Task:
        """A task.

        Raises:
            NotFoundError: no such task.
        """
        return Task.parse(self._transport.call("GET", _task_path(task_id)))

    def tasks(
        self, *, kind: TaskKind | None = None, status: TaskStatus | None = None, skip: int = 0, limit: int = 100
    ) -> list[Task]:
        """Tasks of one kind or of all, newest first; up to 1,000 a call."""
        params = {"kind": kind, "status": status, "skip": skip, "limit": limit}
        return list(Task.parse_all(self._transport.call("GET", _PATH, params=params)))

    def cancel_task(self, task_id: str) -> Task:
        """Stop a task, within seconds also while it is worked on.

        Raises:
            NotFoundError: no such task.
            ConflictError: it is over.
        """
        return Task.parse(self._transport.call("PUT", f"{_task_path(task_id)}/cancel"))

    def restart_task(self, task_id: str) -> Task:
        """Go on with a task that was canceled or failed; what it finished is kept.

        Raises:
            NotFoundError: no such task.
            ConflictError: it is neither canceled nor failed.
        """
        answer = self._transport.call("PUT", f"{_task_path(task_id)}/restart", gone_is_done=409)
        return Task.parse(answer) if answer is not None else self.get_task(task_id)

    def task_log(self, task_id: str, *, after: str | None = None, limit: int = 1000) -> TaskLog:
        """What a task printed, up to 1,000 lines a call.

        Args:
            task_id: the task.
            after: the `next` of an earlier answer; by default the first line comes first.
            limit: how many lines at most.

        Raises:
            NotFoundError: no such task.
        """
        params = {"after": after, "limit": limit}
        return TaskLog.parse(self._transport.call("GET", f"{_task_path(task_id)}/log", params=params))

    def wait(
        self,
        task_id: str,
        *,
        callback: Callable[[Task], None] | None = None,
        poll_seconds: float = 1.0,
        timeout: float | None = None,
    ) -> Task:
        """Wait until a task is over: done, canceled or failed.

        Args:
            task_id: the task.
            callback: called with the task each time it was looked at.
            poll_seconds: seconds between looks.
            timeout: seconds to wait; by default without end.

        Raises:
            NotFoundError: no such task.
            WaitTimeoutError: it was not over in time; it goes on.
        """
        until = time.monotonic() + timeout if timeout is not None else None
        while True:
            task = self.get_task(task_id)
            if callback:
                callback(task)
            if task.is_over:
                return task
            if until is not None and time.monotonic() + poll_seconds > until:
                raise WaitTimeoutError(f"task {task_id} is still {task.status} after {timeout:g} seconds; it goes on")
            time.sleep(poll_seconds)

    def download_output(self, task_id: str, path: str | os.PathLike[str]) -> Path:
        """Download what a task wrote; the file, which appears only when it is complete.

        Args:
            task_id: the task, such as one of `embed_items`.
            path: the file to write, or a folder to write a file of the output's name into.

        Raises:
            NotFoundError: no such task, or its output is not there any more.
            ConflictError: the task has written nothing.
        """
        task = self.get_task(task_id)
        if not task.output:
            raise ConflictError(409, f"task {task_id} has written nothing: {task.detail or f'it is {task.status}'}")
        url = f"{self._transport.url}{_task_path(task_id)}/output"
        return save(self._transport, url, path, name=task.output.rpartition("/")[2])


def save(transport: Transport, url: str, path: str | os.PathLike[str], *, name: str, overwrite: bool = True) -> Path:
    """Download into a file, or into a folder under a name; what is there appears only when it is whole.

    Raises:
        ClientError: there is such a file, which shall not be overwritten.
    """
    target = Path(path)
    target = target / name if target.is_dir() else target
    part = target.with_name(f"{target.name}.{uuid.uuid4().hex}.part")
    try:
        transport.download(url, lambda pieces: _write(part, pieces))
        if not overwrite and target.exists():
            raise ClientError(f"{target} exists already")
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return target


def _task_path(task_id: str) -> str:
    return f"{_PATH}/{segment(task_id)}"


def _write(file: Path, pieces: Iterator[bytes]) -> None:
    with file.open("wb") as stream:
        stream.writelines(pieces)
