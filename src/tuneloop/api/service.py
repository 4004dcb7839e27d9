"""How the service is."""

import re
from collections.abc import Callable
from typing import Any, Literal
from urllib.parse import urlsplit

import anyio
import httpx
import sqlalchemy as sa
from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from sqlalchemy.exc import SQLAlchemyError
from starlette.responses import JSONResponse, Response

from tuneloop.api.backend import Backend, BackendDep
from tuneloop.api.responses import failures
from tuneloop.api.schemas.service import Health, MlflowAddress, Part, Pong
from tuneloop.tasks.store import STATUSES

PATIENCE_SECONDS = 2.0
router = APIRouter(tags=["Service"])


@router.get("/api/v1/ping", summary="Does it answer?")
async def ping() -> Pong:
    """Answers whenever the API runs; needs no key."""
    return Pong(ping="pong")


@router.get(
    "/healthz",
    summary="Does every part answer?",
    response_model=Health,
    responses={503: {"model": Health, "description": "A part is down"}},
)
async def healthz(backend: BackendDep) -> JSONResponse:
    """Asks the database, the queue (is there a live worker?) and MLflow, two seconds at most; needs no key."""
    parts: dict[Literal["database", "queue", "mlflow"], Part] = {}

    async def ask(name: Literal["database", "queue", "mlflow"], check: Callable[[], Any]) -> None:
        parts[name] = await check()

    async with anyio.create_task_group() as asking:
        asking.start_soon(ask, "database", lambda: _in_time(_check_database, backend))
        asking.start_soon(ask, "queue", lambda: _in_time(_check_queue, backend))
        asking.start_soon(ask, "mlflow", lambda: _check_mlflow(backend.settings.tracking_uri))
    healthy = all(part.ok for part in parts.values())
    health = Health(status="ok" if healthy else "error", parts={name: parts[name] for name in sorted(parts)})
    return JSONResponse(health.model_dump(), 200 if healthy else 503)


@router.get("/api/v1/mlflow", summary="Where is MLflow?", responses=failures())
async def mlflow_address(backend: BackendDep) -> MlflowAddress:
    """The address of MLflow as a browser reaches it, without what it takes to log in."""
    return MlflowAddress(url=re.sub(r"//[^/@]*@", "//", backend.settings.mlflow_url))


@router.get(
    "/metrics",
    summary="Metrics for Prometheus",
    response_class=Response,
    responses={
        **{status: value for status, value in failures().items() if status != 422},
        200: {"content": {"text/plain": {"schema": {"type": "string"}}}},
    },
)
def metrics(backend: BackendDep) -> Response:
    """Requests, sessions, events, items and tasks, in Prometheus's text format."""
    gauge = backend.metrics.tasks
    try:
        counts = backend.tasks.counts()
    except SQLAlchemyError:  # what this process counted is worth having also then
        gauge.clear()
    else:
        for status in STATUSES:
            gauge.labels(status).set(counts.get(status, 0))
    return Response(generate_latest(backend.metrics.registry), media_type=CONTENT_TYPE_LATEST)


async def _in_time(check: Callable[[Backend], Part], backend: Backend) -> Part:
    """The answer of a check, or that there was none; a check that hangs is left to itself."""
    with anyio.move_on_after(PATIENCE_SECONDS):
        return await anyio.to_thread.run_sync(check, backend, abandon_on_cancel=True, limiter=backend.health_threads)
    return Part(ok=False, detail=f"no answer within {PATIENCE_SECONDS:g} s")


def _check_database(backend: Backend) -> Part:
    try:
        with backend.database.read() as connection:
            connection.execute(sa.text("SELECT 1"))
    except SQLAlchemyError as error:
        return Part(ok=False, detail=f"does not answer ({type(error).__name__})")
    return Part(ok=True, detail="answers")


def _check_queue(backend: Backend) -> Part:
    try:
        workers = backend.tasks.live_workers()
    except SQLAlchemyError:
        return Part(ok=False, detail="unknown: the database does not answer")
    if workers == 0:
        return Part(ok=False, detail="no worker is running: start one with `tuneloop worker`")
    return Part(ok=True, detail=f"{workers} worker{'s' if workers > 1 else ''} running")


async def _check_mlflow(uri: str) -> Part:
    if not uri.startswith(("http://", "https://")):
        return Part(ok=True, detail="no server: runs are tracked in files")
    try:
        # A proxy from the environment reaches no server on this machine.
        is_local = urlsplit(uri).hostname in ("127.0.0.1", "localhost", "::1")
        async with httpx.AsyncClient(timeout=PATIENCE_SECONDS, trust_env=not is_local) as http:
            with anyio.fail_after(PATIENCE_SECONDS):
                response = await http.get(f"{uri}/health")
    except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
        return Part(ok=False, detail=f"does not answer ({type(error).__name__})")
    if response.status_code >= 500:
        return Part(ok=False, detail=f"answers with status {response.status_code}")
    return Part(ok=True, detail="answers")
