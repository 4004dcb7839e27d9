"""What the service tells about itself: a log line and metrics for each request, without ids, queries or keys."""

import logging
import time
from traceback import format_exception

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tuneloop.api import errors

METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"))
# Asked every few seconds by machines.
_QUIET = frozenset(("/api/v1/ping", "/healthz", "/metrics"))
log = structlog.get_logger("tuneloop.api")


class Metrics:
    """The metrics of one app, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "tuneloop_http_requests", "Requests answered.", ("method", "route", "status"), registry=self.registry
        )
        self.seconds = Histogram(
            "tuneloop_http_request_seconds",
            "Time to the end of the answer.",
            ("method", "route"),
            registry=self.registry,
        )
        self.sessions = Counter("tuneloop_sessions", "New sessions stored.", registry=self.registry)
        self.events = Counter("tuneloop_events", "New events stored by single calls.", registry=self.registry)
        self.items = Counter("tuneloop_items_upserted", "Items written.", registry=self.registry)
        self.tasks = Gauge("tuneloop_tasks", "Tasks by status.", ("status",), registry=self.registry)


class Observer:
    """The outermost middleware: logs and counts each request, and answers when something broke unforeseen."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request through and record what became of it."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        status, begin = 0, time.perf_counter()

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, watch)
        except ClientDisconnect:
            pass
        except Exception as error:
            if status:  # an answer has begun: all that is left is to break the connection off
                raise
            response = errors.unexpected(scope, error)
            level = logging.ERROR if response.status_code == 500 else logging.WARNING
            # As text: a logger's own rendering may show the values of variables.
            log.log(level, "request failed", route=_route(scope), traceback="".join(format_exception(error)))
            await response(scope, receive, watch)
        finally:
            self._record(scope, status, time.perf_counter() - begin)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        method = scope["method"] if scope["method"] in METHODS else "other"
        route = _route(scope)
        self.metrics.requests.labels(method, route, status or "gone").inc()
        self.metrics.seconds.labels(method, route).observe(seconds)
        log.log(
            logging.DEBUG if route in _QUIET else logging.INFO,
            "request",
            method=method,
            route=route,
            status=status or "client gone",
            ms=round(seconds * 1000, 1),
            key=scope.get("state", {}).get("key"),
        )


def _route(scope: Scope) -> str:
    """The template of the path that was called, for the path itself may hold ids."""
    return getattr(scope.get("route"), "path", "pages" if "endpoint" in scope else "unmatched")
