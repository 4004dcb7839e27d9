"""Learning from a batch, as a task."""

from typing import Annotated, Any

from fastapi import APIRouter, Body, Path, Query
from starlette.requests import Request
from starlette.responses import StreamingResponse

from tuneloop.api import errors
from tuneloop.api.backend import BackendDep, on_model_threads
from tuneloop.api.bodies import JsonRoute, parse_settings
from tuneloop.api.responses import failures
from tuneloop.api.schemas.common import MAX_LIMIT, MAX_SKIP, Status
from tuneloop.api.schemas.tasks import FailedMethod, FineTuningTask, MethodAnswer, Methods, TaskRequest
from tuneloop.api.task_answers import task_answer
from tuneloop.errors import NotFound
from tuneloop.ids import ClientId
from tuneloop.methods.contract import Method
from tuneloop.tasks.store import FINE_TUNING

router = APIRouter(prefix="/api/v1/fine-tuning", route_class=JsonRoute, tags=["Fine-tuning"])

TaskId = Annotated[ClientId, Path(description="24 hex digits.")]
_TASK = {"fine_tuning_method": "Default Fine Tuning Method", "settings": {"max_runs": 4}}


@router.post(
    "/task",
    summary="Ask for an iteration",
    response_model=FineTuningTask,
    response_model_exclude_unset=True,
    responses=failures(404, 409, 413),
)
def create_task(task: Annotated[TaskRequest, Body(examples=[_TASK])], backend: BackendDep, request: Request) -> Any:
    """Ask for one pass of a method over a batch. Without `batch_id` the collecting batch is released and used; with
    nothing collected the task is stored with the status `error`."""
    settings = task.settings or {}
    check_settings(backend.methods.get(task.fine_tuning_method), settings)
    record = backend.tasks.create_fine_tuning(
        method=task.fine_tuning_method,
        settings=settings,
        batch_id=task.batch_id,
        metadata=task.metadata,
        idempotency_key=task.idempotency_key,
    )
    return task_answer(record, request, backend)


@router.get(
    "/task",
    summary="Tasks, newest first",
    response_model=list[FineTuningTask],
    response_model_exclude_unset=True,
    responses=failures(),
)
def list_tasks(
    backend: BackendDep,
    request: Request,
    status: Annotated[Status | None, Query()] = None,
    skip: Annotated[int, Query(ge=0, le=MAX_SKIP)] = 0,
    limit: Annotated[int, Query(ge=1, le=MAX_LIMIT)] = 100,
) -> Any:
    """The fine-tuning tasks, newest first."""
    records = backend.tasks.list(kind=FINE_TUNING, status=status, skip=skip, limit=limit)
    return [task_answer(record, request, backend) for record in records]


@router.get(
    "/task/{task_id}",
    summary="One task",
    response_model=FineTuningTask,
    response_model_exclude_unset=True,
    responses=failures(404),
)
def get_task(task_id: TaskId, backend: BackendDep, request: Request) -> Any:
    """How a task stands."""
    return task_answer(backend.tasks.get(task_id, kind=FINE_TUNING), request, backend)


@router.put(
    "/task/{task_id}/cancel",
    summary="Cancel a task",
    response_model=FineTuningTask,
    response_model_exclude_unset=True,
    responses=failures(404, 409),
)
def cancel_task(task_id: TaskId, backend: BackendDep, request: Request) -> Any:
    """Stop a task: at once while it waits, within seconds while it trains. One that is over is left alone: 409."""
    return task_answer(backend.tasks.cancel(task_id, kind=FINE_TUNING), request, backend)


@router.put(
    "/task/{task_id}/restart",
    summary="Restart a task",
    response_model=FineTuningTask,
    response_model_exclude_unset=True,
    responses=failures(404, 409),
)
def restart_task(task_id: TaskId, backend: BackendDep, request: Request) -> Any:
    """Ask again for a task that is `canceled` or `error`; its finished runs are kept."""
    return task_answer(backend.tasks.restart(task_id, kind=FINE_TUNING), request, backend)


@router.get(
    "/task/{task_id}/model.safetensors",
    summary="Download the best model's weights",
    response_class=StreamingResponse,
    responses={
        **failures(404, 409),
        200: {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}},
    },
)
@on_model_threads
def download_weights(task_id: TaskId, backend: BackendDep) -> StreamingResponse:
    """The weights of the task's best model, in safetensors."""
    task = backend.tasks.get(task_id, kind=FINE_TUNING)
    if task.best_run_id is None:
        raise NotFound(f"task {task_id} has no best model: {task.detail or f'it is {task.status}'}")
    name, size, chunks = backend.weights.open(task.best_run_id)
    headers = {"Content-Length": str(size), "Content-Disposition": f'attachment; filename="{name}"'}
    return StreamingResponse(chunks, media_type="application/octet-stream", headers=headers)


@router.get("/methods", summary="The methods there are", responses=failures())
def list_methods(backend: BackendDep) -> Methods:
    """The methods with the JSON Schema of their settings, and the plugins that could not be used."""
    answer = Methods(methods=[], failed=[FailedMethod(source=f.source, error=f.error) for f in backend.methods.failed])
    for name, method in sorted(backend.methods.methods.items()):
        try:
            answer.methods.append(_describe(method))
        except Exception as error:  # a plugin's schema that has no JSON form
            answer.failed.append(FailedMethod(source=name, error=f"{type(error).__name__}: {error}"))
    return answer


def _describe(method: type[Method[Any]]) -> MethodAnswer:
    default = method.settings_schema.model_fields["main_metric"].default
    return MethodAnswer(
        name=method.meta.name,
        version=method.meta.version,
        description=method.meta.description,
        main_metric=default if isinstance(default, str) else None,
        settings_schema=method.settings_schema.model_json_schema(),
    )


def check_settings(method: type[Method[Any]], settings: dict[str, Any]) -> None:
    """Check a task's settings against its method's schema.

    Raises:
        RequestValidationError: naming each setting that is wrong, as `body.settings.<field>`.
    """
    checked = parse_settings(method.settings_schema, settings)
    if checked.main_metric not in method.metrics:
        known = ", ".join(sorted(method.metrics))
        raise errors.invalid(f"must be one of: {known}", loc=("body", "settings", "main_metric"))
