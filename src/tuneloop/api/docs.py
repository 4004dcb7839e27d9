"""The OpenAPI document and the page that shows it, without internet."""

from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.openapi.utils import get_openapi
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.staticfiles import StaticFiles

from tuneloop.api.auth import OPEN_PATHS

DESCRIPTION = """
Sessions and events come in under **Clickstream**, what can be found under **Items**. A **Fine-tuning** task learns
from the collected batch; its best model is registered under **Models** and called by name and version.

Ids that you bring are opaque: 1 to 512 characters without control characters, percent-encoded in paths. Times in
answers are ISO 8601 in UTC, times in requests are Unix seconds.
"""
TAGS = [
    {"name": "Clickstream", "description": "What people searched, saw and did."},
    {"name": "Batches", "description": "Sessions gathered until they are released for learning."},
    {"name": "Items", "description": "What can be found."},
    {"name": "Fine-tuning", "description": "Learning from a batch, as a task."},
    {"name": "Tables", "description": "Relational tables to learn from."},
    {"name": "Tasks", "description": "Asked-for work of any kind."},
    {"name": "Models", "description": "The registry: versions, aliases, embeddings, rankings."},
    {"name": "OpenAI", "description": "Embeddings in OpenAI's shapes, for its clients."},
    {"name": "Service", "description": "How the service is."},
]
_STATIC = Path(__file__).parent / "static"


def install(app: FastAPI, *, needs_key: bool) -> None:
    """Add `/docs`, its files and the document it shows."""

    async def docs(request: Request) -> Response:
        return HTMLResponse(_page(app.title))

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app, needs_key=needs_key)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way to change the document
    app.add_route("/docs", docs, include_in_schema=False)
    app.mount("/docs/assets", StaticFiles(directory=_STATIC), name="docs-assets")


def _page(title: str) -> bytes:
    # Relative addresses: they hold behind a proxy that adds a prefix.
    page = get_swagger_ui_html(
        openapi_url="openapi.json",
        title=title,
        swagger_js_url="docs/assets/swagger-ui-bundle.js",
        swagger_css_url="docs/assets/swagger-ui.css",
        swagger_favicon_url="docs/assets/favicon-32x32.png",
        swagger_ui_parameters={"validatorUrl": None, "defaultModelsExpandDepth": 0, "tryItOutEnabled": True},
    )
    return bytes(page.body)


def _document(app: FastAPI, *, needs_key: bool) -> dict[str, Any]:
    document = get_openapi(title=app.title, version=app.version, description=DESCRIPTION, routes=app.routes, tags=TAGS)
    document["components"]["securitySchemes"] = {
        "key": {"type": "http", "scheme": "bearer", "description": "A secret of TUNELOOP_API_KEYS."}
    }
    if needs_key:
        document["security"] = [{"key": []}]
        for path in OPEN_PATHS:
            for operation in document["paths"][path].values():
                operation["security"] = []
    return document
