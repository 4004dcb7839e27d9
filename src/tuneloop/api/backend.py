"""What the routes work with: the stores and the registry of one installation."""

import functools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Any

import anyio
from fastapi import Depends
from starlette.requests import Request

from tuneloop.api.observe import Metrics
from tuneloop.catalog.store import Catalog
from tuneloop.database import Database
from tuneloop.feedback.store import FeedbackStore
from tuneloop.methods.registry import Registry
from tuneloop.models.inference import Inference
from tuneloop.models.registry import ModelRegistry
from tuneloop.models.weights import Weights
from tuneloop.relational.outputs import Outputs
from tuneloop.relational.sources import Sources
from tuneloop.relational.uploads import Uploads
from tuneloop.settings import Settings
from tuneloop.tasks.erasure import Erasure
from tuneloop.tasks.store import TaskStore


@dataclass(frozen=True)
class Backend:
    """The rooms behind the API, built once at start."""

    settings: Settings
    database: Database
    feedback: FeedbackStore
    catalog: Catalog
    tasks: TaskStore
    erasure: Erasure
    methods: Registry
    models: ModelRegistry
    inference: Inference
    weights: Weights
    sources: Sources
    outputs: Outputs
    uploads: Uploads
    metrics: Metrics
    # Work that waits for MLflow or computes gets threads of its own, so that sessions never wait for it.
    model_threads: anyio.CapacityLimiter
    import_threads: anyio.CapacityLimiter
    table_threads: anyio.CapacityLimiter  # few: each may take `table_memory_gb`
    health_threads: anyio.CapacityLimiter


async def _backend(request: Request) -> Backend:
    backend: Backend = request.app.state.backend
    return backend


BackendDep = Annotated[Backend, Depends(_backend)]


def on_model_threads(endpoint: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
    """An endpoint with a parameter `backend`, run on the threads for models."""

    @functools.wraps(endpoint)
    async def run(*, backend: Backend, **values: Any) -> Any:
        work = functools.partial(endpoint, backend=backend, **values)
        return await anyio.to_thread.run_sync(work, limiter=backend.model_threads)

    return run
