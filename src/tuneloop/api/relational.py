"""Tables to learn from: sending them, and what is wrong with them."""

from collections.abc import Iterator
from typing import Annotated, Any

import anyio
from fastapi import APIRouter, Body, Query
from starlette.requests import Request

from tuneloop.api import errors
from tuneloop.api.backend import Backend, BackendDep
from tuneloop.api.bodies import JsonRoute, in_a_thread, parse_settings
from tuneloop.api.responses import failures
from tuneloop.api.schemas.relational import (
    DatasetRequest,
    LocalFile,
    Missing,
    Problems,
    Refused,
    RelationalTaskRequest,
    SourcesRequest,
    Uploaded,
)
from tuneloop.api.schemas.tasks import Task
from tuneloop.api.task_answers import task_answer
from tuneloop.errors import InvalidInput
from tuneloop.relational.settings import RelationalSettings
from tuneloop.relational.sources import UPLOAD
from tuneloop.relational.validation import InvalidDataset, validate

UPLOAD_PATH = "/api/v1/relational/upload"
_FILE = {
    "required": True,
    "description": "A Parquet or CSV file of any length.",
    "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
}
_TASK = {
    "dataset": {
        "name": "shop",
        "tables": [
            {"name": "customers", "source": "/srv/customers.parquet", "candidate_keys": ["customer_id"]},
            {
                "name": "orders",
                "source": "/srv/orders.parquet",
                "time_column": "day",
                "foreign_keys": [{"column": "customer_id", "link_to": "customers.customer_id"}],
            },
        ],
        "task": {
            "name": "churn",
            "task_type": "binary_classification",
            "target_entity": {"column": "customer_id", "link_to": "customers.customer_id"},
            "time_column": "day",
            "label_column": "churn",
            "source": {"train": "/srv/train.parquet", "validation": "/srv/validation.parquet"},
        },
    },
    "settings": {"max_minutes": 5},
}
upload_router = APIRouter(tags=["Tables"])
router = APIRouter(prefix="/api/v1/relational", route_class=JsonRoute, tags=["Tables"])


@upload_router.post(UPLOAD_PATH, summary="Send a table", responses=failures(), openapi_extra={"requestBody": _FILE})
async def upload_table(
    request: Request,
    backend: BackendDep,
    name: Annotated[str, Query(min_length=1, max_length=512, description="The file's name: its suffix says the kind.")],
) -> Uploaded:
    """Store a Parquet or CSV file. The same content is stored once and has the same `source`."""

    def work(chunks: Iterator[bytes]) -> str:
        return backend.uploads.receive(chunks, name)

    return Uploaded(source=await in_a_thread(request, work, limiter=backend.import_threads))


@router.post("/sources", summary="Which tables can be read?", responses=failures(413))
def check_sources(body: SourcesRequest, backend: BackendDep) -> Missing:
    """Of these, the sources that have to be sent: no such upload, no such path, or another file at that path."""
    return Missing(missing=[each.source for each in body.sources if not _is_here(backend, each)])


@router.post("/validate", summary="Is a dataset all right?", responses=failures(413))
async def validate_dataset(body: DatasetRequest, backend: BackendDep) -> Problems:
    """Look at the tables and the task, and say what is wrong before anything is trained."""

    def work() -> list[Any]:
        return validate(body.dataset, backend.sources, memory_gb=backend.settings.table_memory_gb)

    problems = await anyio.to_thread.run_sync(work, limiter=backend.table_threads)
    return Problems.model_validate({"problems": problems}, from_attributes=True)


@router.post(
    "/task",
    summary="Learn from tables",
    response_model=Task,
    response_model_exclude_unset=True,
    responses={**failures(409, 413), 422: {"model": Refused, "description": "The request or the dataset is invalid"}},
)
async def create_relational_task(
    body: Annotated[RelationalTaskRequest, Body(examples=[_TASK])], backend: BackendDep, request: Request
) -> Any:
    """Ask for a model of the dataset's task. The dataset is validated first: what is wrong with it is answered as 422,
    with the list that `validate` answers."""

    def work() -> Any:
        record = backend.tasks.create_relational(
            dataset=body.dataset.document(),
            settings=body.settings or {},
            metadata=body.metadata,
            idempotency_key=body.idempotency_key,
            check=check,
        )
        return task_answer(record, request, backend, with_kind=True)

    def check() -> None:
        problems = validate(body.dataset, backend.sources, memory_gb=backend.settings.table_memory_gb)
        if problems:
            raise InvalidDataset(problems)

    parse_settings(RelationalSettings, body.settings or {})
    if body.dataset.task is None:
        raise errors.invalid("say what to predict: this dataset has no task", loc=("body", "dataset", "task"))
    return await anyio.to_thread.run_sync(work, limiter=backend.table_threads)


def _is_here(backend: Backend, wanted: LocalFile) -> bool:
    """Whether a source is readable and the same as its owner sees: a path may name another file on this machine."""
    try:
        location = backend.sources.locate(wanted.source)
    except InvalidInput:
        return False
    if wanted.source.startswith(UPLOAD) or location.path is None or location.path.is_dir():
        return True
    found = location.path.stat()
    return wanted.size in (None, found.st_size) and wanted.modified_ns in (None, found.st_mtime_ns)
