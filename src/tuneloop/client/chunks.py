"""Many records as few requests: JSON lines, cut by number and by size."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from tuneloop.client.transport import dump

Lines = Iterable[str | bytes | Mapping[str, Any]]

CHUNK_BYTES = 4 << 20  # well below the service's smallest sensible body limit


def to_line(record: Any) -> bytes:
    """A record as one line of JSON; text is taken as JSON already.

    Raises:
        InvalidRequestError: it holds what JSON cannot say.
    """
    if isinstance(record, str):
        record = record.encode(errors="surrogatepass")  # the service names a line that is no valid Unicode
    if not isinstance(record, bytes):
        return dump(record)
    return record.strip().replace(b"\r\n", b" ").replace(b"\n", b" ")


def chunks(records: Iterable[Any], *, lines: int, size: int = CHUNK_BYTES) -> Iterator[list[bytes]]:
    """Groups of at most `lines` lines, and at most `size` bytes unless one line alone is larger."""
    chunk: list[bytes] = []
    length = 0
    for record in records:
        line = to_line(record)
        if chunk and (len(chunk) == lines or length + len(line) + 1 > size):
            yield chunk
            chunk, length = [], 0
        chunk.append(line)
        length += len(line) + 1
    if chunk:
        yield chunk
