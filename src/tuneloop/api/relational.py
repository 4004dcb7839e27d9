"""Tables to learn from: sending them, and what is wrong with them."""

from collections.abc import Iterator
from typing import Annotated, Any

import anyio
from fastapi import APIRouter, Query
from starlette.requests import Request

from tuneloop.api.backend import Backend, BackendDep
from tuneloop.api.bodies import JsonRoute, in_a_thread
from tuneloop.api.responses import failures
from tuneloop.api.schemas.relational import (
    DatasetRequest,
    LocalFile,
    Missing,
    Problems,
    SourcesRequest,
    Uploaded,
)
from tuneloop.errors import InvalidInput
from tuneloop.relational.sources import UPLOAD
from tuneloop.relational.validation import validate

UPLOAD_PATH = "/api/v1/relational/upload"
_FILE = {
    "required": True,
    "description": "A Parquet or CSV file of any length.",
    "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
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

    problems = await anyio.to_thread.run_sync(work, limiter=backend.import_threads)
    return Problems.model_validate({"problems": problems}, from_attributes=True)


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
