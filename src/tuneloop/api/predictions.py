"""Predictions of models learnt from tables: answered, or written to a table by a task."""

from typing import Annotated, Any

import anyio
from fastapi import APIRouter, Body
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from tuneloop.api.auth import role_of
from tuneloop.api.backend import Backend, BackendDep
from tuneloop.api.bodies import JsonRoute
from tuneloop.api.models import Name, VersionName
from tuneloop.api.responses import failures
from tuneloop.api.schemas.predictions import Predictions, PredictRequest
from tuneloop.api.schemas.tasks import Task
from tuneloop.api.task_answers import task_answer
from tuneloop.errors import InvalidInput
from tuneloop.relational.entities import entities_table, plain_predictions
from tuneloop.relational.writing import exists, taken

router = APIRouter(prefix="/api/v1/models", route_class=JsonRoute, tags=["Models"])
_PREDICT = {"entities": [{"customer_id": "c-17", "timestamp": "2024-05-01T00:00:00"}]}


@router.post(
    "/{name}/versions/{version}/predict",
    summary="Predict",
    response_model=Predictions | Task,
    responses=failures(404, 409, 413),
)
async def predict(
    name: Name,
    version: VersionName,
    body: Annotated[PredictRequest, Body(examples=[_PREDICT])],
    backend: BackendDep,
    request: Request,
) -> JSONResponse:
    """Predict for entities at times, with the tables recorded with the model or those of `params.dataset`. Up to
    10,000 `entities` are answered in their order. With `source` and `output` the answer is a task that predicts for a
    table of any length and writes another; this needs a key of the role `admin`."""
    work = _answer if body.entities is not None else _task
    # Not re-read by a model: ten thousand predictions are known to be what they are.
    answer = await anyio.to_thread.run_sync(work, name, version, body, backend, request, limiter=backend.table_threads)
    return JSONResponse(answer)


def _answer(name: str, version: str, body: PredictRequest, backend: Backend, request: Request) -> dict[str, Any]:
    model, reference = backend.inference.table_model(name, version)
    found = model.predict(
        entities_table(model.task, body.entities or []),
        sources=backend.sources,
        dataset=body.params.dataset if body.params is not None else None,
        memory_gb=backend.settings.table_memory_gb,
        embeddings=body.embeddings,
    )
    return {"predictions": plain_predictions(model.task, found), "model": reference}


def _task(name: str, version: str, body: PredictRequest, backend: Backend, request: Request) -> dict[str, Any]:
    if role_of(request.scope) != "admin":
        raise HTTPException(403, "writing predictions to a table needs a key of the role `admin`; `entities` does not")
    found = backend.models.resolve(name, version)
    backend.models.source_run(found)  # refuses now what the task could not load
    dataset = body.params.dataset.document() if body.params is not None and body.params.dataset is not None else None
    asked = {
        "source": body.source,
        "output": body.output,
        "overwrite": body.overwrite,
        "embeddings": body.embeddings,
    }

    def check() -> None:
        output = backend.outputs.locate(str(body.output))
        if not body.overwrite and exists(output):
            raise taken(output)
        try:
            backend.sources.locate(str(body.source))
        except InvalidInput as error:
            raise InvalidInput(error.detail, field="source") from None

    record = backend.tasks.create_predict(
        asked={"model": name, "version": version, "dataset": dataset, **asked},
        settings={"model": found.name, "version": found.version, **asked},
        dataset=dataset,
        idempotency_key=body.idempotency_key,
        check=check,
    )
    return task_answer(record, request, backend, with_kind=True)
