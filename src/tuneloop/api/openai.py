"""Embeddings in OpenAI's shapes, so that its clients work unchanged."""

import base64
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Body, Path
from starlette.responses import JSONResponse, Response

from tuneloop.api.backend import BackendDep, on_model_threads
from tuneloop.api.bodies import JsonRoute
from tuneloop.api.responses import openai_failures
from tuneloop.api.schemas.openai import EmbeddingsAnswer, EmbeddingsRequest, OpenAIModel, OpenAIModels
from tuneloop.errors import InvalidInput, NotFound
from tuneloop.ids import ClientId
from tuneloop.models.encoders import Vectors
from tuneloop.models.records import Version

router = APIRouter(prefix="/v1", route_class=JsonRoute, tags=["OpenAI"])

_REQUEST = {"model": "shop/latest", "input": ["red summer dress", "linen skirt"]}


@router.post(
    "/embeddings",
    summary="Embeddings, as OpenAI answers them",
    response_model=EmbeddingsAnswer,
    responses=openai_failures(404, 413),
)
@on_model_threads
def create_embeddings(
    request: Annotated[EmbeddingsRequest, Body(examples=[_REQUEST])], backend: BackendDep
) -> Response:
    """Embed one text or several, as queries unless `kind` says `item`. `usage` counts words, not tokens."""
    name, version = _split(request.model)
    vectors, model = backend.inference.embed(name, version, request.input, request.kind)
    if request.dimensions not in (None, vectors.shape[1]):
        raise InvalidInput(
            f"{model} has {vectors.shape[1]} dimensions and no others: leave `dimensions` out", field="dimensions"
        )
    words = sum(len(text.split()) for text in request.input)
    data = [
        {"object": "embedding", "index": index, "embedding": embedding}
        for index, embedding in enumerate(_encode(vectors, request.encoding_format))
    ]
    usage = {"prompt_tokens": words, "total_tokens": words}
    return JSONResponse({"object": "list", "data": data, "model": model, "usage": usage})


@router.get("/models", summary="All versions, as OpenAI lists models", responses=openai_failures())
@on_model_threads
def list_openai_models(backend: BackendDep) -> OpenAIModels:
    """All versions of all models, under the names that `model` takes."""
    entries = [_entry(version) for model in backend.models.models() for version in model.versions]
    return OpenAIModels(object="list", data=entries)


@router.get("/models/{model:opaque}", summary="One version, as OpenAI shows a model", responses=openai_failures(404))
@on_model_threads
def get_openai_model(model: Annotated[ClientId, Path()], backend: BackendDep) -> OpenAIModel:
    """The version that `name/version`, `name/latest` or `name/@alias` means now."""
    return _entry(backend.models.resolve(*_split(model)))


def _entry(version: Version) -> OpenAIModel:
    created = version.created_at // 1_000_000
    return OpenAIModel(id=f"{version.name}/{version.version}", object="model", created=created, owned_by="tuneloop")


def _split(model: str) -> tuple[str, str]:
    name, slash, version = model.rpartition("/")
    if not (name and slash and version):
        raise NotFound(f"there is no model {model!r}: write `name/version`, such as `shop/1` or `shop/@champion`")
    return name, version


def _encode(vectors: Vectors, encoding: str | None) -> list[Any]:
    if encoding == "base64":
        return [base64.b64encode(row.tobytes()).decode() for row in np.asarray(vectors, dtype="<f4")]
    return list(vectors.tolist())
