"""The client's calls about learning: methods, and asking for a fine-tuning."""

import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tuneloop.client.errors import ConflictError
from tuneloop.client.tasks import TaskCalls, save
from tuneloop.client.types import Methods, Task

DEFAULT_METHOD = "Default Fine Tuning Method"

_PATH = "/api/v1/fine-tuning"
_WEIGHTS = "model.safetensors"


class FineTuningCalls(TaskCalls):
    """Fine-tuning and methods. Mixed into `Client`."""

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
        return save(self._transport, task.best_model_url, path, name=_WEIGHTS)
