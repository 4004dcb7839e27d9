"""The application: rooms behind, middleware around, routes in between."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

import anyio
from fastapi import FastAPI

from tuneloop.api import (
    auth,
    clickstream,
    docs,
    errors,
    fine_tuning,
    imports,
    items,
    models,
    openai,
    predictions,
    relational,
    service,
    tasks,
)
from tuneloop.api.backend import Backend
from tuneloop.api.bodies import BodyLimit
from tuneloop.api.observe import Metrics, Observer
from tuneloop.catalog.store import Catalog
from tuneloop.database import Database
from tuneloop.feedback.store import FeedbackStore
from tuneloop.methods.registry import discover
from tuneloop.models.inference import Inference
from tuneloop.models.registry import ModelRegistry
from tuneloop.models.weights import Weights
from tuneloop.relational.outputs import Outputs
from tuneloop.relational.sources import Sources
from tuneloop.relational.uploads import Uploads
from tuneloop.settings import Settings
from tuneloop.tasks.erasure import Erasure
from tuneloop.tasks.snapshots import SnapshotStore
from tuneloop.tasks.store import TaskStore

MODEL_THREADS, IMPORT_THREADS, TABLE_THREADS, HEALTH_THREADS = 8, 4, 2, 8
# How long a call waits at most for an MLflow that is away, before it answers 503.
MLFLOW_PATIENCE_SECONDS = 3.0


def create_app(settings: Settings) -> FastAPI:
    """The HTTP API of one installation, as an ASGI application.

    Raises:
        TuneloopError: it would be open to other machines without a key.
    """
    settings.check_exposure()
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        database = Database(settings.url)
        await anyio.to_thread.run_sync(database.migrate)
        app.state.backend = await anyio.to_thread.run_sync(build_backend, settings, database, metrics)
        yield
        database.dispose()

    app = FastAPI(
        title="Tuneloop",
        version=version("tuneloop"),
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,
    )
    for room in (clickstream, imports, items, fine_tuning, tasks, models, predictions, relational, openai, service):
        app.include_router(room.router)
    app.include_router(relational.upload_router)
    docs.install(app, needs_key=bool(settings.keys))
    errors.install(app)
    # The last one added is the first one asked.
    streamed = frozenset((imports.PATH, relational.UPLOAD_PATH))
    app.add_middleware(BodyLimit, max_bytes=int(settings.max_body_mb * 2**20), streamed=streamed)
    app.add_middleware(auth.Auth, keys=settings.keys)
    app.add_middleware(Observer, metrics=metrics)
    return app


def build_backend(settings: Settings, database: Database, metrics: Metrics) -> Backend:
    """The rooms behind the API. Methods are looked for once: a new plugin needs a restart."""
    feedback = FeedbackStore(database, settle_seconds=settings.session_settle_seconds)
    catalog = Catalog(database)
    patience = min(settings.mlflow_retry_seconds, MLFLOW_PATIENCE_SECONDS)
    registry = ModelRegistry(settings.tracking_uri, database, retry_seconds=patience)
    return Backend(
        settings=settings,
        database=database,
        feedback=feedback,
        catalog=catalog,
        tasks=TaskStore(database, feedback),
        erasure=Erasure(database, feedback, SnapshotStore(database, feedback, catalog, settings.snapshots)),
        methods=discover(settings.plugins),
        models=registry,
        inference=Inference(registry, settings.data_dir.absolute() / "models"),
        weights=Weights(registry.tracking),
        sources=Sources(roots=settings.roots, connections=settings.connections, uploads=settings.uploads_dir),
        outputs=Outputs(
            settings.predictions_dir,
            roots=settings.roots,
            connections=settings.connections,
            writable=settings.writable,
            closed=[settings.data_dir],
        ),
        uploads=Uploads(settings.uploads_dir),
        metrics=metrics,
        model_threads=anyio.CapacityLimiter(MODEL_THREADS),
        import_threads=anyio.CapacityLimiter(IMPORT_THREADS),
        table_threads=anyio.CapacityLimiter(TABLE_THREADS),
        health_threads=anyio.CapacityLimiter(HEALTH_THREADS),
    )
