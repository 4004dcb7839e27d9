"""The registry: versions, aliases, embeddings, rankings."""

import math
from typing import Annotated, Any

from fastapi import APIRouter, Body, Header, Path
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tuneloop.api.backend import Backend, BackendDep, on_model_threads
from tuneloop.api.bodies import JsonRoute
from tuneloop.api.responses import failures
from tuneloop.api.schemas.models import (
    AliasAnswer,
    AliasRequest,
    EmbedAnswer,
    EmbedItemsRequest,
    EmbedRequest,
    ModelAnswer,
    Models,
    RankAnswer,
    RankRequest,
    Registered,
    RegisterRequest,
)
from tuneloop.api.schemas.tasks import Task
from tuneloop.api.task_answers import task_answer
from tuneloop.errors import Conflict, InvalidInput
from tuneloop.ids import ClientId, iso
from tuneloop.models.records import Model, Version

router = APIRouter(prefix="/api/v1/models", route_class=JsonRoute, tags=["Models"])

Name = Annotated[ClientId, Path(description="Of a registered model.")]
VersionName = Annotated[ClientId, Path(description="A number, `latest`, or `@alias`.", examples=["latest"])]
_REGISTER = {"name": "shop", "task_id": "65844c019fa7cf0957d04758"}
_RANK = {"query": "red dress", "items": [{"object_id": "a", "text": "scarlet gown"}, {"object_id": "b", "text": "hat"}]}
MAX_NAMED = 20


@router.post("", summary="Register a model", responses=failures(404, 409, 413))
@on_model_threads
def register(
    request: Annotated[RegisterRequest, Body(examples=[_REGISTER])],
    backend: BackendDep,
    idempotency_key: Annotated[
        ClientId | None, Header(description="The same request with the same key makes one version.")
    ] = None,
) -> Registered:
    """Make the best model of a task, or the model of a run, a new version of `name`."""
    version = backend.models.register(
        request.name,
        run_id=request.run_id or _best_run(backend, request.task_id or ""),
        description=request.description,
        request_id=idempotency_key,
    )
    return Registered(name=version.name, version=version.version)


@router.get("", summary="All models", response_model=Models, response_model_exclude_unset=True, responses=failures())
@on_model_threads
def list_models(backend: BackendDep) -> Any:
    """All registered models with their versions."""
    return {"models": [_model(model) for model in backend.models.models()]}


@router.get(
    "/{name}",
    summary="One model",
    response_model=ModelAnswer,
    response_model_exclude_unset=True,
    responses=failures(404),
)
@on_model_threads
def get_model(name: Name, backend: BackendDep) -> Any:
    """A registered model: its versions, newest first, each with the run it came from and that run's metrics."""
    return _model(backend.models.model(name))


@router.put("/{name}/aliases/{alias}", summary="Point an alias at a version", responses=failures(404, 413))
@on_model_threads
def set_alias(
    name: Name, alias: Annotated[ClientId, Path(examples=["champion"])], request: AliasRequest, backend: BackendDep
) -> AliasAnswer:
    """Point an alias at a version; pointing it back is the rollback."""
    version = backend.models.set_alias(name, alias, request.version)
    return AliasAnswer(name=name, alias=alias, version=version.version)


@router.post(
    "/{name}/versions/{version}/embed",
    summary="Embed texts",
    response_model=EmbedAnswer,
    responses=failures(404, 409, 413),
)
@on_model_threads
def embed(name: Name, version: VersionName, request: EmbedRequest, backend: BackendDep) -> Response:
    """Embeddings of unit length, in the order of the inputs."""
    vectors, model = backend.inference.embed(name, version, request.inputs, request.kind)
    answer = {"embeddings": vectors.tolist(), "dimensions": vectors.shape[1], "model": model}
    return JSONResponse(answer)  # as it is: a second look at each of a million numbers says nothing new


@router.post(
    "/{name}/versions/{version}/embed-items",
    summary="Embed the catalogue",
    response_model=Task,
    response_model_exclude_unset=True,
    responses=failures(404, 409, 413),
)
@on_model_threads
def embed_items(
    name: Name,
    version: VersionName,
    backend: BackendDep,
    request: Request,
    body: Annotated[EmbedItemsRequest | None, Body(examples=[{}])] = None,
) -> Any:
    """Ask for the embedding of every item, as a task that writes a Parquet file (`object_id`, `embedding`). `latest`
    and aliases are looked up now. Items whose text an earlier task of this version encoded are not encoded again."""
    asked = body or EmbedItemsRequest()
    found = backend.models.resolve(name, version)
    backend.models.source_run(found)  # refuses now what the task could not load
    settings = {"model": found.name, "version": found.version}
    record = backend.tasks.create_embed_items(
        asked={"model": name, "version": version, "output": asked.output},
        settings=settings if asked.output is None else {**settings, "output": asked.output},
        idempotency_key=asked.idempotency_key,
    )
    return task_answer(record, request, backend, with_kind=True)


@router.post(
    "/{name}/versions/{version}/rank",
    summary="Rank items for a query",
    response_model=RankAnswer,
    responses=failures(404, 409, 413),
)
@on_model_threads
def rank(
    name: Name,
    version: VersionName,
    request: Annotated[RankRequest, Body(examples=[_RANK])],
    backend: BackendDep,
) -> Any:
    """Order items of the catalogue, or texts, by how well they fit a query; the best come first."""
    if request.items is not None:
        items = [(item.object_id, item.text) for item in request.items]
    else:
        items = _catalogued(backend, request.object_ids or [])
    results, model = backend.inference.rank(name, version, request.query, items, request.top_k)
    return {"results": [{"object_id": object_id, "score": score} for object_id, score in results], "model": model}


def _best_run(backend: Backend, task_id: str) -> str:
    task = backend.tasks.get(task_id)
    if task.best_run_id is None:
        reason = task.detail or f"it is {task.status}"
        raise Conflict(f"task {task_id} has no best model: {reason}")
    return task.best_run_id


def _catalogued(backend: Backend, object_ids: list[str]) -> list[tuple[str, str]]:
    contents = backend.catalog.contents(object_ids)
    unknown = [object_id for object_id in object_ids if object_id not in contents]
    if unknown:
        named = ", ".join(repr(object_id) for object_id in unknown[:MAX_NAMED])
        more = f" and {len(unknown) - MAX_NAMED} more" if len(unknown) > MAX_NAMED else ""
        raise InvalidInput(f"not in the catalogue: {named}{more}", field="object_ids")
    return [(object_id, contents[object_id]) for object_id in object_ids]


def _model(model: Model) -> dict[str, Any]:
    return {
        "name": model.name,
        "description": model.description,
        "created_at": iso(model.created_at),
        "versions": [_version(version) for version in model.versions],
        "aliases": dict(model.aliases),
    }


def _version(version: Version) -> dict[str, Any]:
    # MLflow keeps NaN metrics, which JSON does not have.
    metrics = {name: value for name, value in version.metrics.items() if math.isfinite(value)}
    answer = {
        "version": version.version,
        "description": version.description,
        "created_at": iso(version.created_at),
        "aliases": list(version.aliases),
        "run_id": version.run_id,
        "metrics": metrics,
    }
    known = {"task_id": version.task_id, "method": version.method}
    return answer | {name: value for name, value in known.items() if value is not None}
