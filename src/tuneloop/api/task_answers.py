"""The answer for a task: the contract's fields always, the others once they are known."""

from typing import Any

from starlette.requests import Request

from tuneloop.api.backend import Backend
from tuneloop.ids import iso
from tuneloop.tasks.store import FINE_TUNING, TaskRecord
from tuneloop.tracking import experiment_url, run_url

WEIGHTS_PATH = "api/v1/fine-tuning/task/{task_id}/model.safetensors"


def task_answer(record: TaskRecord, request: Request, backend: Backend, *, with_kind: bool = False) -> dict[str, Any]:
    """What a client is told about a task. Addresses in it are absolute: those the client reaches the API under."""
    always: dict[str, Any] = {
        "id": record.id,
        "status": record.status,
        "created_at": iso(record.created_at),
        "updated_at": iso(record.updated_at),
        "batch_id": record.batch_id,
    }
    if with_kind:
        always["kind"] = record.kind
    known = {
        "fine_tuning_method": record.method,
        "metadata": record.metadata,
        "settings": record.settings,
        "idempotency_key": record.idempotency_key,
        "progress": record.progress,
        "detail": record.detail,
        "start_run_id": record.start_run_id,
        "best_run_id": record.best_run_id,
        "best_model_url": _weights_url(record, request),
        "best_run_url": _best_run_url(record, backend),
        "experiment_url": _experiment_url(record, backend),
        "dataset": record.dataset if with_kind else None,
        "output": record.output if with_kind else None,
    }
    return always | {name: value for name, value in known.items() if value is not None}


def _weights_url(record: TaskRecord, request: Request) -> str | None:
    if record.kind != FINE_TUNING or record.best_run_id is None:
        return None
    return f"{str(request.base_url).rstrip('/')}/{WEIGHTS_PATH.format(task_id=record.id)}"


def _experiment_url(record: TaskRecord, backend: Backend) -> str | None:
    if record.experiment_id is None:
        return None
    return experiment_url(backend.settings.mlflow_url, record.experiment_id)


def _best_run_url(record: TaskRecord, backend: Backend) -> str | None:
    if record.experiment_id is None or record.best_run_id is None:
        return None
    return run_url(backend.settings.mlflow_url, record.experiment_id, record.best_run_id)
