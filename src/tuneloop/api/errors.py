"""From what went wrong to an answer: the only place that turns errors into HTTP."""

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Match
from starlette.types import Scope

from tuneloop.errors import InvalidInput, TuneloopError
from tuneloop.relational.validation import InvalidDataset

MAX_PROBLEMS = 100
MAX_TEXT = 500
_OPENAI_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_OPENAI_CODES = {401: "invalid_api_key", 403: "insufficient_permissions", 404: "not_found", 413: "request_too_large"}
Problem = dict[str, Any]


def install(app: FastAPI) -> None:
    """Have the app answer every error in the contract's shape, and in OpenAI's below `/v1`."""
    app.add_exception_handler(InvalidDataset, _invalid_dataset)
    app.add_exception_handler(TuneloopError, _tuneloop_error)
    app.add_exception_handler(RequestValidationError, _invalid_request)
    app.add_exception_handler(HTTPException, _http_error)


def answer(scope: Scope, status: int, detail: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """The answer to a request that failed for one reason."""
    return JSONResponse(_shape(scope, status, clean(detail), param=None), status, headers)


def unexpected(scope: Scope, error: Exception) -> JSONResponse:
    """The answer when something broke that no room foresaw: 503 when a server does not answer, else 500."""
    reason = _unreachable(error)
    if reason is not None:
        return answer(scope, 503, reason, {"Retry-After": "1"})
    return answer(scope, 500, "something broke in Tuneloop; its log says what")


def invalid(msg: str, *, loc: Iterable[str | int] = ("body",), kind: str = "value_error") -> RequestValidationError:
    """An error that says which part of a request is wrong."""
    return RequestValidationError([{"type": kind, "loc": tuple(loc), "msg": msg}])


def clean(text: str, limit: int = MAX_TEXT) -> str:
    """Text that is safe in every answer: valid Unicode without control characters, and not long."""
    text = text[: limit + 1].encode("utf-8", "replace").decode()
    text = re.sub(r"[\x00-\x1f\x7f-\x9f]", " ", text)
    return text if len(text) <= limit else text[:limit] + "…"


async def _tuneloop_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, TuneloopError)
    if isinstance(error, InvalidInput):
        return _problems(request, [{"type": "value_error", "loc": _locate(request, error.field), "msg": error.detail}])
    return answer(request.scope, error.status, error.detail, {"Retry-After": "1"} if error.status == 503 else None)


async def _invalid_dataset(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, InvalidDataset)
    found = [
        {"table": each.table, "column": each.column, "problem": clean(each.problem), "fix": clean(each.fix)}
        for each in error.problems
    ]
    return JSONResponse({"detail": found}, error.status)


async def _invalid_request(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    return _problems(request, error.errors())


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    headers, detail = dict(error.headers or {}), error.detail
    if error.status_code == 404 and detail == "Not Found":
        detail = "there is no such path; /docs lists those there are"
    if error.status_code == 405:
        allowed = _allowed_methods(request)
        headers, detail = {"Allow": ", ".join(allowed)}, f"this path answers to {' and '.join(allowed)} only"
    return answer(request.scope, error.status_code, detail, headers)


def _problems(request: Request, problems: Sequence[Any]) -> JSONResponse:
    """422 with one entry a problem; what was sent is not echoed, it may be huge or no JSON at all."""
    detail: list[Problem] = [
        {
            "loc": [clean(part, 200) if isinstance(part, str) else part for part in problem["loc"]],
            "msg": clean(str(problem["msg"]).removeprefix("Value error, ")),
            "type": problem["type"],
        }
        for problem in problems[:MAX_PROBLEMS]
    ]
    if len(problems) > MAX_PROBLEMS:
        detail.append({"loc": [], "msg": f"and {len(problems) - MAX_PROBLEMS} more", "type": "more"})
    if not is_openai(request.scope):
        return JSONResponse({"detail": detail}, 422)
    named = [(".".join(str(part) for part in problem["loc"][1:]), problem["msg"]) for problem in detail]
    message = "; ".join(f"{name}: {msg}" if name else msg for name, msg in named)
    return JSONResponse(_shape(request.scope, 422, clean(message), param=named[0][0] or None), 422)


def is_openai(scope: Scope) -> bool:
    """Whether a request is one of those that speak OpenAI's shapes."""
    path: str = scope["path"]
    return path == "/v1" or path.startswith("/v1/")


def _shape(scope: Scope, status: int, detail: str, *, param: str | None) -> dict[str, Any]:
    if not is_openai(scope):
        return {"detail": detail}
    kind = _OPENAI_TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": detail, "type": kind, "param": param, "code": _OPENAI_CODES.get(status)}}


def _locate(request: Request, field: str | None) -> list[str | int]:
    """Where in the request a field stands that a room named."""
    if field is None:
        return ["body" if request.method in ("POST", "PUT") else "query"]
    parts: list[str | int] = [int(part) if part.isdecimal() else part for part in field.split(".")]
    if parts[0] in request.path_params:
        return ["path", *parts]
    return ["query" if parts[0] in request.query_params else "body", *parts]


def _allowed_methods(request: Request) -> list[str]:
    """All the methods that a path answers to; the router itself names those of the first route only."""

    def answers(method: str) -> bool:
        scope = {**request.scope, "method": method, "path_params": {}}
        return any(route.matches(scope)[0] is Match.FULL for route in request.app.router.routes)

    return [method for method in ("GET", "HEAD", "POST", "PUT", "DELETE") if answers(method)]


def _unreachable(error: BaseException) -> str | None:
    """Why a server that is needed does not answer, when that is what happened."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OperationalError | InterfaceError | PoolTimeout):
            return "the database does not answer right now: try again in a moment, and see /healthz"
        if isinstance(seen, _connection_errors()):
            return "MLflow does not answer right now: try again in a moment, and see /healthz"
        seen = seen.__cause__ or seen.__context__
    return None


def _connection_errors() -> tuple[type[BaseException], ...]:
    """The errors of HTTP clients that found nobody; only a client that is imported can have raised one."""
    requests = sys.modules.get("requests.exceptions")
    return (requests.ConnectionError, requests.Timeout) if requests is not None else ()
