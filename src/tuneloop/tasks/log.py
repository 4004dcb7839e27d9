"""What tasks printed, line by line."""

from collections.abc import Sequence

import sqlalchemy as sa

from tuneloop.errors import InvalidInput
from tuneloop.ids import decode_cursor, encode_cursor, now_micros
from tuneloop.tasks.tables import task_log, tasks

MAX_LINE = 10_000


def append(connection: sa.Connection, task_id: str, attempt: int, lines: Sequence[str]) -> None:
    """Add lines of an attempt; those of one that is not worked on any more are left out."""
    current = sa.select(tasks.c.task_id).where(
        tasks.c.task_id == task_id, tasks.c.attempt == attempt, tasks.c.status == "processing"
    )
    if not lines or connection.execute(current).one_or_none() is None:
        return
    now = now_micros()
    rows = [{"task_id": task_id, "attempt": attempt, "logged_at": now, "line": _storable(line)} for line in lines]
    connection.execute(sa.insert(task_log), rows)


def read(connection: sa.Connection, task_id: str, after: str | None, limit: int) -> tuple[list[str], str]:
    """Lines after a cursor, or from the first, oldest first; and the cursor of what comes after them.

    Raises:
        InvalidInput: no cursor that this service gave.
    """
    last = _parse(after)
    query = sa.select(task_log.c.seq, task_log.c.line).where(task_log.c.task_id == task_id, task_log.c.seq > last)
    rows = connection.execute(query.order_by(task_log.c.seq).limit(limit)).all()
    return [row.line for row in rows], encode_cursor(rows[-1].seq if rows else last)


def _parse(cursor: str | None) -> int:
    key = "0" if cursor is None else decode_cursor(cursor)
    if not (key.isascii() and key.isdecimal() and len(key) <= 18):
        raise InvalidInput("`after` is not a cursor: pass the `next` of an earlier answer", field="after")
    return int(key)


def _storable(line: str) -> str:
    """The line as every database can hold it."""
    line = line.replace("\0", "").encode("utf-8", "replace").decode()
    return line if len(line) <= MAX_LINE else f"{line[:MAX_LINE]}…"
