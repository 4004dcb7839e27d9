"""The client's calls about learning: methods, and the tasks that fine-tune a model."""

import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tuneloop.client.errors import ConflictError, WaitTimeoutError
from tuneloop.client.transport import Transport, segment
from tuneloop.client.types import Methods, Task, TaskStatus

DEFAULT_METHOD = "Default Fine Tuning Method"

_PATH = "/api/v1/fine-tuning"
_WEIGHTS = "model.safetensors"


class FineTuningCalls:
    """Tasks and methods. Mixed into `Client`."""

    _transport: Transport

    def create_task(
        self,
        method: str = DEFAULT_METHOD,
        *,
        batch_id: str | None = None,
        settings: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
    ) -> Task:
        """Ask for a fine-tuning; answers at once, the work is done by a worker.

        Args:
            method: name of the method.
            batch_id: a released batch; by default the collecting batch is released and used. With nothing collected
                the task is answered with status `error` and the reason in `detail`.
            settings: of the method, such as `max_runs`, `max_minutes`, `main_metric`; see `methods`.
            metadata: anything you want to find in the task again.
            idempotency_key: the same key with the same request gives the same task. By default a new one for each
                call.

        Raises:
            NotFoundError: no such method or batch.
            InvalidInputError: a setting is not accepted; `detail` names it.
            ConflictError: the batch is still collecting, or the key belongs to another request.

        Example:
            >>> task = client.create_task(settings={"max_runs": 4})
            >>> task = client.wait(task.id)
        """
        body: dict[str, Any] = {
            "fine_tuning_method": method,
            "settings": dict(settings or {}),
            "metadata": dict(metadata or {}),
            "idempotency_key": idempotency_key or uuid.uuid4().hex,
        }
        if batch_id is not None:
            body["batch_id"] = batch_id
        return Task.parse(self._transport.call("POST", f"{_PATH}/task", body=body))

    def get_task(self, task_id: str) -> Task:
        """A task.

        Raises:
            NotFoundError: no such task.
        """
        return Task.parse(self._transport.call("GET", _task_path(task_id)))

    def tasks(self, *, status: TaskStatus | None = None, skip: int = 0, limit: int = 100) -> list[Task]:
        """Tasks, newest first; up to 1,000 a call."""
        params = {"status": status, "skip": skip, "limit": limit}
        return list(Task.parse_all(self._transport.call("GET", f"{_PATH}/task", params=params)))

    def cancel_task(self, task_id: str) -> Task:
        """Stop a task, within seconds also when it trains.

        Raises:
            NotFoundError: no such task.
            ConflictError: it is over.
        """
        return Task.parse(self._transport.call("PUT", f"{_task_path(task_id)}/cancel"))

    def restart_task(self, task_id: str) -> Task:
        """Go on with a task that was canceled or failed; finished runs are kept.

        Raises:
            NotFoundError: no such task.
            ConflictError: it is neither canceled nor failed.
        """
        answer = self._transport.call("PUT", f"{_task_path(task_id)}/restart", gone_is_done=409)
        return Task.parse(answer) if answer is not None else self.get_task(task_id)

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

    def methods(self) -> Methods:
        """The methods of the service with the schemas of their settings, and the plugins that failed."""
        return Methods.parse(self._transport.call("GET", f"{_PATH}/methods"))

    def download_best_model(self, task_id: str, path: str | os.PathLike[str]) -> Path:
        """Download the weights of a task's best model; the file, which appears only when it is complete.

        Args:
            task_id: the task.
            path: the file to write, or a folder to write `model.safetensors` into.

        Raises:
            NotFoundError: no such task.
            ConflictError: the task has no best model.
        """
        task = self.get_task(task_id)
        if not task.best_model_url:
            reason = task.detail or f"it is {task.status}"
            raise ConflictError(409, f"task {task_id} has no best model: {reason}")
        target = Path(path)
        target = target / _WEIGHTS if target.is_dir() else target
        part = target.with_name(f"{target.name}.{uuid.uuid4().hex}.part")
        try:
            self._transport.download(task.best_model_url, lambda pieces: _write(part, pieces))
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
        return target


def _task_path(task_id: str) -> str:
    return f"{_PATH}/task/{segment(task_id)}"


def _write(file: Path, pieces: Iterator[bytes]) -> None:
    with file.open("wb") as stream:
        stream.writelines(pieces)
