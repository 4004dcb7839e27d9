"""Request bodies: how large they may be, what counts as JSON, and the settings of tasks in them."""

import json
import math
import re
from collections.abc import Callable, Coroutine, Iterator, Mapping
from typing import Any, TypeVar

import anyio
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tuneloop.api import errors
from tuneloop.errors import InvalidInput

T = TypeVar("T")
Schema = TypeVar("Schema", bound=BaseModel)

NDJSON_TYPES = ("application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines")
# What may stand for a value that JSON cannot say or no store can hold: such bodies are looked through.
_SUSPICIOUS = re.compile(rb"NaN|Infinity|[eE]\+?[0-9]{3}|[0-9]{309}|\\u0000")
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_IN_A_THREAD = 256 * 1024  # bytes from which parsing would hold up other requests


class BodyLimit:
    """Middleware that reads a body before anything else happens, and answers 413 to one that is too large.

    A body that is too large is read to its end and thrown away, so that the client, which sends before it listens,
    sees the answer. The body of a path in `streamed` is left to its route.
    """

    def __init__(self, app: ASGIApp, *, max_bytes: int, streamed: frozenset[str] = frozenset()) -> None:
        self.app = app
        self.max_bytes = max_bytes
        self.streamed = streamed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the body, then let the request through or answer 413."""
        if scope["type"] != "http" or scope["path"] in self.streamed:
            return await self.app(scope, receive, send)
        body, size, more = bytearray(), 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            chunk = message.get("body", b"")
            size += len(chunk)
            if size <= self.max_bytes:
                body += chunk
            else:
                body.clear()
            more = message.get("more_body", False)
        if size > self.max_bytes:
            limit = f"{self.max_bytes / 2**20:g} MiB (TUNELOOP_MAX_BODY_MB)"
            detail = f"the body is larger than {limit}: send less at once; sessions/import takes streams of any length"
            return await errors.answer(scope, 413, detail)(scope, receive, send)
        return await self.app(scope, _replay(bytes(body), receive), send)


def _replay(body: bytes, receive: Receive) -> Receive:
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay


async def in_a_thread(request: Request, work: Callable[[Iterator[bytes]], T], *, limiter: anyio.CapacityLimiter) -> T:
    """What work in a thread makes of a body that is read while it arrives.

    Raises:
        InvalidInput: the work refused it; the rest was read, for a client listens when it has sent everything.
    """
    stream = request.stream()

    async def next_chunk() -> bytes:
        return await anext(stream, b"")

    chunks = iter(lambda: anyio.from_thread.run(next_chunk), b"")
    try:
        return await anyio.to_thread.run_sync(work, chunks, limiter=limiter)
    except InvalidInput:
        async for _ in stream:
            pass
        raise


class JsonRoute(APIRoute):
    """A route whose body is JSON in the strict sense, whatever content type the client declared."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler of this route, after the body was parsed."""
        handle = super().get_route_handler()
        takes_body = self.body_field is not None

        async def parse_and_handle(request: Request) -> Response:
            if takes_body and (body := await request.body()):
                encoding = request.headers.get("content-encoding", "identity").lower()
                if encoding != "identity":
                    raise errors.invalid("send this body uncompressed", loc=("header", "content-encoding"))
                parse = self.parse_body
                if len(body) < _IN_A_THREAD:
                    parsed = parse(body, request.headers)
                else:
                    parsed = await anyio.to_thread.run_sync(parse, body, request.headers)
                request = _ParsedRequest(request, parsed)
            return await handle(request)

        return parse_and_handle

    def parse_body(self, body: bytes, headers: Headers) -> Any:
        """The value of a body that is not empty."""
        return parse_json(body)


class NdjsonRoute(JsonRoute):
    """A route that takes a JSON list, or NDJSON with an element a line."""

    def parse_body(self, body: bytes, headers: Headers) -> Any:
        """The elements, from either form. Without a telling content type the first character decides."""
        content_type = headers.get("content-type", "").partition(";")[0].strip().lower()
        first = body.removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
        if content_type in NDJSON_TYPES or (content_type != "application/json" and first == b"{"):
            return parse_ndjson(body)
        return parse_json(body)


class _ParsedRequest(Request):
    """A request whose JSON is known already."""

    def __init__(self, request: Request, parsed: Any) -> None:
        super().__init__({**request.scope, "headers": list(request.scope["headers"])}, request.receive)
        MutableHeaders(scope=self.scope)["content-type"] = "application/json"
        self._parsed = parsed
        self._raw = request

    async def body(self) -> bytes:
        """The bytes as they came."""
        return await self._raw.body()

    async def json(self) -> Any:
        """The value, parsed before."""
        return self._parsed


def parse_ndjson(body: bytes) -> list[Any]:
    """The values of lines; blank lines are passed over. Errors name the line.

    Raises:
        RequestValidationError: a line is no JSON.
    """
    numbered = ((number, line) for number, line in enumerate(body.split(b"\n"), start=1) if line.strip())
    return [parse_json(line, loc=("body", index), line=number) for index, (number, line) in enumerate(numbered)]


def parse_json(body: bytes, *, loc: tuple[str | int, ...] = ("body",), line: int | None = None) -> Any:
    """The value of a JSON text in UTF-8, nested at most 200 deep.

    Raises:
        RequestValidationError: it is no JSON, or holds NaN, infinity, a NUL character or a lone surrogate.
    """
    where = f"line {line}: " if line is not None else ""
    body = body.removeprefix(b"\xef\xbb\xbf")
    try:
        body.decode()
    except UnicodeDecodeError as error:
        raise errors.invalid(f"{where}not UTF-8 (byte {error.start})", loc=loc, kind="json_invalid") from None
    try:
        value = from_json(body, allow_inf_nan=True)  # NaN is let in here, so that its place can be named below
    except ValueError as error:
        if _SURROGATE.search(body):
            _refuse_unsayable(_parse_loosely(body), loc)
        reason = str(error).replace("recursion limit exceeded", "nested deeper than 200 levels")
        raise errors.invalid(f"{where}this is no valid JSON: {reason}", loc=loc, kind="json_invalid") from None
    if _SUSPICIOUS.search(body):
        _refuse_unsayable(value, loc)
    return value


def _parse_loosely(body: bytes) -> Any:
    """The value with its lone surrogates, to find them; None when it is broken in another way too."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _refuse_unsayable(value: Any, loc: tuple[str | int, ...]) -> None:
    """Name the first place, in no certain order, of what JSON cannot say or no store can hold."""
    stack: list[tuple[Any, tuple[str | int, ...]]] = [(value, loc)]
    while stack:
        value, loc = stack.pop()
        if isinstance(value, float) and not math.isfinite(value):
            raise errors.invalid("must be a finite number, not NaN or infinity", loc=loc, kind="finite_number")
        if isinstance(value, str) and (problem := _text_problem(value)):
            raise errors.invalid(problem, loc=loc, kind="string_unicode")
        if isinstance(value, list):
            stack.extend((element, (*loc, index)) for index, element in enumerate(value))
        elif isinstance(value, dict):
            for key, element in value.items():
                if problem := _text_problem(key):
                    raise errors.invalid(f"a key here {problem}", loc=loc, kind="string_unicode")
                stack.append((element, (*loc, key)))


def _text_problem(text: str) -> str | None:
    if "\0" in text:
        return "must not hold NUL characters"
    if any(0xD800 <= ord(char) <= 0xDFFF for char in text):
        return "must not hold lone surrogates: send valid Unicode"
    return None


def parse_settings(schema: type[Schema], settings: Mapping[str, Any]) -> Schema:
    """The `settings` of a request by their schema.

    Raises:
        RequestValidationError: naming each setting that is wrong, as `body.settings.<field>`.
    """
    try:
        return schema.model_validate_json(json.dumps(settings), strict=True)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False, include_input=False)
        raise RequestValidationError(
            [{**problem, "loc": ("body", "settings", *problem["loc"])} for problem in problems]
        ) from None
