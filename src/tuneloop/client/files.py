"""Files of sessions and items as JSON lines: JSONL, gzipped JSONL, Parquet; told apart by their content."""

import gzip
import json
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any, Literal

from tuneloop.client.errors import ClientError
from tuneloop.client.transport import dump

RecordFormat = Literal["tuneloop", "ubi"]

_GZIP, _PARQUET = b"\x1f\x8b", b"PAR1"
_LOOK_AT = 50  # lines, to find out what they are
_PARQUET_ROWS = 1_000
_IDS = frozenset(("object_id", "session_id", "user_id", "event_id"))  # often numbers in tables, always text here


@dataclass(frozen=True)
class Records:
    """The records of a file, one JSON line each, to be read once.

    Attributes:
        lines: the records; line n of a text file, row n of a table.
        format: whether they are Tuneloop's own or UBI records.
        fraction: the share of the file that is read, 0 to 1; None where the end is not known.
    """

    lines: Iterator[bytes]
    format: RecordFormat
    fraction: Callable[[], float | None]


@contextmanager
def open_records(path: Path) -> Iterator[Records]:
    """The records of a file; `-` is standard input.

    Raises:
        ClientError: the file cannot be read, or is of no kind that is understood.
    """
    with ExitStack() as stack:
        try:
            raw: IO[bytes] = sys.stdin.buffer if str(path) == "-" else stack.enter_context(path.open("rb"))
            start = raw.peek(4)[:4]  # type: ignore[attr-defined]  # a buffered reader
        except OSError as error:
            raise ClientError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from None
        if start == _PARQUET:
            yield _parquet(path)
        else:
            yield _text(path, raw, gzipped=start[:2] == _GZIP)


def _text(path: Path, raw: IO[bytes], *, gzipped: bool) -> Records:
    lines = _read_lines(path, gzip.GzipFile(fileobj=raw) if gzipped else raw)
    head = list(islice(lines, _LOOK_AT))
    first = next((line for line in head if line), b"")
    if first.startswith(b"["):
        raise ClientError(f"{path} is one JSON list: write one object a line, as `jq -c '.[]' FILE` does")
    if b"\0" in first:
        raise ClientError(f"{path} is neither JSON lines nor gzip nor Parquet")
    size = path.stat().st_size if path.is_file() else None
    return Records(chain(head, lines), _format_of(head), lambda: raw.tell() / size if size else None)


def _read_lines(path: Path, stream: Iterable[bytes]) -> Iterator[bytes]:
    count = 0
    try:
        for line in stream:
            count += 1
            yield line.strip()
    except (EOFError, zlib.error, OSError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).rstrip(".").lower()
        raise ClientError(f"{path} is damaged after line {count}, lines before it may be stored: {reason}") from None


def _format_of(lines: Iterable[bytes]) -> RecordFormat:
    """What the records are, by the first one that says it."""
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and "search_query" in record:
            return "tuneloop"
        if isinstance(record, dict) and _is_ubi(record):
            return "ubi"
    return "tuneloop"


def _is_ubi(names: Iterable[str]) -> bool:
    known = set(names)
    return "search_query" not in known and "query_id" in known and bool(known & {"user_query", "action_name"})


def _parquet(path: Path) -> Records:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise ClientError(f"cannot read {path} as Parquet: {error}") from None
    format: RecordFormat = "ubi" if _is_ubi(file.schema_arrow.names) else "tuneloop"
    done = 0

    def rows() -> Iterator[bytes]:
        nonlocal done
        try:
            for batch in file.iter_batches(batch_size=_PARQUET_ROWS):
                for row in batch.to_pylist(maps_as_pydicts="lossy"):
                    done += 1
                    yield dump(_plain(row, format))
        except (pa.ArrowException, OSError) as error:
            raise ClientError(f"{path} is damaged after row {done}: {error}") from None

    total = file.metadata.num_rows
    return Records(rows(), format, lambda: done / total if total else None)


def _plain(value: Any, format: RecordFormat, name: str = "") -> Any:
    """A table's value as JSON has it: empty cells left out, ids as text, times as the format writes them."""
    if isinstance(value, dict):
        parts = ((key, _plain(part, format, key)) for key, part in value.items())
        return {key: part for key, part in parts if part is not None}
    if isinstance(value, list):
        return [_plain(part, format) for part in value]
    if isinstance(value, int) and not isinstance(value, bool) and name in _IDS:
        return str(value)
    if isinstance(value, datetime):
        moment = value if value.tzinfo else value.replace(tzinfo=UTC)
        return moment.isoformat() if format == "ubi" else moment.timestamp()
    if isinstance(value, float) and value != value:  # pandas writes an empty number so
        return None
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return value.isoformat() if isinstance(value, date) else value


def read_json(path: Path) -> list[Any]:
    """All records of a file as Python values.

    Raises:
        ClientError: the file cannot be read, or a line is no JSON.
    """
    with open_records(path) as records:
        values = []
        for number, line in enumerate(records.lines, start=1):
            try:
                values += [json.loads(line)] if line else []
            except ValueError as error:
                raise ClientError(f"{path}, line {number} is no JSON: {error}") from None
        return values
