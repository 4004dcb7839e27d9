"""Asked-for work of any kind."""

from collections.abc import Iterator
from typing import IO, Annotated, Any, Literal

from fastapi import APIRouter, Path, Query
from starlette.requests import Request
from starlette.responses import StreamingResponse

from tuneloop.api.backend import BackendDep
from tuneloop.api.bodies import JsonRoute
from tuneloop.api.responses import failures
from tuneloop.api.schemas.common import MAX_LIMIT, MAX_SKIP, Status
from tuneloop.api.schemas.tasks import Log, Task
from tuneloop.api.task_answers import task_answer
from tuneloop.errors import NotFound
from tuneloop.ids import ClientId

router = APIRouter(prefix="/api/v1/tasks", route_class=JsonRoute, tags=["Tasks"])

TaskId = Annotated[ClientId, Path(description="24 hex digits.")]
Kind = Literal["fine_tuning", "embed_items", "relational", "predict"]
_CHUNK = 256 * 1024


@router.get(
    "",
    summary="Tasks of all kinds, newest first",
    response_model=list[Task],
    response_model_exclude_unset=True,
    responses=failures(),
)
def list_any_tasks(
    backend: BackendDep,
    request: Request,
    kind: Annotated[Kind | None, Query()] = None,
    status: Annotated[Status | None, Query()] = None,
    skip: Annotated[int, Query(ge=0, le=MAX_SKIP)] = 0,
    limit: Annotated[int, Query(ge=1, le=MAX_LIMIT)] = 100,
) -> Any:
    """Tasks of one kind or of all, newest first."""
    records = backend.tasks.list(kind=kind, status=status, skip=skip, limit=limit)
    return [task_answer(record, request, backend, with_kind=True) for record in records]


@router.get(
    "/{task_id}",
    summary="One task of any kind",
    response_model=Task,
    response_model_exclude_unset=True,
    responses=failures(404),
)
def get_any_task(task_id: TaskId, backend: BackendDep, request: Request) -> Any:
    """How a task stands."""
    return task_answer(backend.tasks.get(task_id), request, backend, with_kind=True)


@router.put(
    "/{task_id}/cancel",
    summary="Cancel a task of any kind",
    response_model=Task,
    response_model_exclude_unset=True,
    responses=failures(404, 409),
)
def cancel_any_task(task_id: TaskId, backend: BackendDep, request: Request) -> Any:
    """Stop a task. One that is over is left alone: 409."""
    return task_answer(backend.tasks.cancel(task_id), request, backend, with_kind=True)


@router.put(
    "/{task_id}/restart",
    summary="Restart a task of any kind",
    response_model=Task,
    response_model_exclude_unset=True,
    responses=failures(404, 409),
)
def restart_any_task(task_id: TaskId, backend: BackendDep, request: Request) -> Any:
    """Ask again for a task that is `canceled` or `error`."""
    return task_answer(backend.tasks.restart(task_id), request, backend, with_kind=True)


@router.get("/{task_id}/log", summary="What a task printed", responses=failures(404))
def task_log(
    task_id: TaskId,
    backend: BackendDep,
    after: Annotated[str | None, Query(description="The `next` of an earlier answer.", max_length=100)] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_LIMIT)] = MAX_LIMIT,
) -> Log:
    """Lines in the order they were printed, those of earlier attempts first. `next` goes on from there, also where
    there was nothing yet. Nothing more comes when the task is over, and a look after that finds no lines."""
    lines, following = backend.tasks.log(task_id, after=after, limit=limit)
    return Log(lines=list(lines), next=following)


@router.get(
    "/{task_id}/output",
    summary="What a task wrote",
    response_class=StreamingResponse,
    responses={
        **failures(404),
        200: {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}},
    },
)
def task_output(task_id: TaskId, backend: BackendDep) -> StreamingResponse:
    """The file that a task wrote, streamed."""
    import fsspec

    output = backend.tasks.get(task_id).output
    if output is None:
        raise NotFound(f"task {task_id} has written no output")
    if "#" in output:
        raise NotFound(f"the output of task {task_id} is a table of a database: {output}")
    try:
        stream: IO[bytes] = fsspec.open(output, "rb").open()
    except FileNotFoundError:
        raise NotFound(f"the output of task {task_id} is not there any more") from None
    return StreamingResponse(_chunks(stream), media_type="application/octet-stream")


def _chunks(stream: IO[bytes]) -> Iterator[bytes]:
    with stream:
        while chunk := stream.read(_CHUNK):
            yield chunk
