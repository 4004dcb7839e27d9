"""Importing sessions: a body of any length, read line by line while it arrives."""

import zlib
from collections.abc import Iterable, Iterator
from typing import Annotated, Literal

from fastapi import APIRouter, Query
from starlette.requests import Request

from tuneloop.api.backend import BackendDep
from tuneloop.api.bodies import in_a_thread
from tuneloop.api.responses import failures
from tuneloop.api.schemas.clickstream import ImportAnswer
from tuneloop.errors import InvalidInput
from tuneloop.feedback.ndjson import LineSplitter
from tuneloop.feedback.store import ImportReport

PATH = "/api/v1/clickstream/sessions/import"
_CHUNK = 64 * 1024
_GZIP = b"\x1f\x8b"
_BODY = {
    "required": True,
    "description": "NDJSON, a session a line. `Content-Encoding: gzip` is understood.",
    "content": {
        "application/x-ndjson": {
            "schema": {"type": "string", "format": "binary"},
            "example": '{"session_id": "s-1", "search_query": "red dress", "search_results": [{"object_id": "d/17"}], '
            '"events": [{"event_id": "e-1", "object_id": "d/17"}], "is_irrelevant": false}\n',
        }
    },
}
router = APIRouter()


@router.post(
    PATH,
    tags=["Clickstream"],
    summary="Import sessions",
    responses=failures(),
    openapi_extra={"requestBody": _BODY},
)
async def import_sessions(
    request: Request,
    backend: BackendDep,
    format: Annotated[Literal["tuneloop", "ubi"], Query(description="`ubi`: OpenSearch UBI records.")] = "tuneloop",
) -> ImportAnswer:
    """Store the good lines of a body of any length and name the bad ones. Importing the same again is harmless:
    sessions that are there already count as `duplicates`."""

    def work(chunks: Iterator[bytes]) -> ImportReport:
        plain = inflate(chunks, request.headers.get("content-encoding", "identity").strip().lower())
        return backend.feedback.import_sessions(_lines(plain), format=format)

    report = await in_a_thread(request, work, limiter=backend.import_threads)
    backend.metrics.sessions.inc(report.accepted)
    return ImportAnswer.model_validate(report, from_attributes=True)


def inflate(chunks: Iterator[bytes], encoding: str) -> Iterator[bytes]:
    """The plain bytes of a body; gzip is also recognised where the client did not declare it.

    Raises:
        InvalidInput: the encoding is another one, or the gzip data are broken.
    """
    if encoding not in ("identity", "gzip", "x-gzip"):
        raise InvalidInput(f"Content-Encoding {encoding!r} is not understood: send plain NDJSON or gzip")
    first = next(chunks, b"")
    while len(first) < len(_GZIP) and (more := next(chunks, b"")):
        first += more
    if encoding == "identity" and not first.startswith(_GZIP):
        yield first
        yield from chunks
    else:
        yield from _gunzip(first, chunks)


def _gunzip(first: bytes, chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Decompress in pieces of bounded size, so that a small body cannot become a large memory."""
    member, pending, chunks = zlib.decompressobj(zlib.MAX_WBITS | 16), first, iter(chunks)
    begun = False  # whether a member has bytes and has not ended
    while pending or (pending := next(chunks, b"")):
        try:
            plain = member.decompress(pending, _CHUNK)
        except zlib.error as error:
            raise InvalidInput(f"the gzip data are broken ({error}): the lines before the damage are stored") from None
        begun, pending = True, member.unconsumed_tail
        if plain:
            yield plain
        if member.eof:
            begun, pending = False, member.unused_data.lstrip(b"\0")
            member = zlib.decompressobj(zlib.MAX_WBITS | 16)
    if begun:
        raise InvalidInput("the gzip data end too early: the lines before are stored; send the whole file again")


def _lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    splitter = LineSplitter()
    for chunk in chunks:
        yield from splitter.feed(chunk)
    yield from splitter.close()
