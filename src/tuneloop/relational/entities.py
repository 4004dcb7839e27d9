"""Whom predictions are asked for, and what is answered: from JSON and tables to Arrow, and from Arrow to JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from tuneloop.errors import InvalidInput
from tuneloop.relational.schema import LinkTask, NodeTask

if TYPE_CHECKING:
    import ibis
    import pyarrow as pa

_EPOCH = datetime(1970, 1, 1)


def columns_of(task: NodeTask | LinkTask) -> tuple[str, ...]:
    """The columns of an entity: its key, and the time where the task has one."""
    return (task.entity.column,) if task.time_column is None else (task.entity.column, task.time_column)


def entities_table(task: NodeTask | LinkTask, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Entities of a request as a table. Times are Unix seconds or ISO 8601, in UTC where they say nothing else.

    Raises:
        InvalidInput: an entity has other columns, or a value that is no key or no time.
    """
    import pyarrow as pa

    wanted = columns_of(task)
    for number, row in enumerate(rows):
        for column in wanted:
            if row.get(column) is None:
                raise InvalidInput(
                    f"{column!r} is missing: each entity has {' and '.join(map(repr, wanted))}",
                    field=f"entities.{number}",
                )
        if unknown := sorted(row.keys() - set(wanted)):
            raise InvalidInput(
                f"{unknown[0]!r} is no column of an entity: each has {' and '.join(map(repr, wanted))}",
                field=f"entities.{number}",
            )
    key, *time = wanted
    try:
        columns = {key: pa.array([_key(row[key]) for row in rows])}
    except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
        raise InvalidInput(f"{key!r} is not of one type, text or whole numbers: {error}", field="entities") from None
    for name in time:
        times = [_parse_time(row[name], f"entities.{number}.{name}") for number, row in enumerate(rows)]
        columns[name] = pa.array(times, pa.timestamp("us"))
    return pa.table(columns)


def read_entities(task: NodeTask | LinkTask, rows: ibis.Table) -> pa.Table:
    """Entities of a table, with their labels where it has them.

    Raises:
        InvalidInput: a column is missing, is no time, or has gaps; or there are no rows.
    """
    import pyarrow as pa

    schema = rows.schema()
    key, *time = columns_of(task)
    for column in (key, *time):
        if column not in schema:
            there = ", ".join(schema.names[:20])
            raise InvalidInput(f"the source has no column {column!r}, which the model needs: it has {there}")
    wanted = {key: rows[key]}
    for column in time:
        kind = schema[column]
        if not (kind.is_timestamp() or kind.is_date() or kind.is_string() or kind.is_integer()):
            raise InvalidInput(f"the column {column!r} is {kind} and no time: store it as a date or a timestamp")
        wanted[column] = rows[column].as_timestamp("s") if kind.is_integer() else rows[column].cast("timestamp")
    if task.label_column in schema and task.label_column not in wanted:
        wanted[task.label_column] = rows[task.label_column]
    found = rows.select(**wanted).to_pyarrow()
    if not len(found):
        raise InvalidInput("the source has no rows")
    for number, column in enumerate(found.column_names):
        if column in time:
            found = found.set_column(number, column, found[column].cast(pa.timestamp("us")))
        if column != task.label_column and (nulls := found[column].null_count):
            raise InvalidInput(f"the column {column!r} is empty in {nulls:,} of {len(found):,} rows")
    return found


def plain_predictions(task: NodeTask | LinkTask, answer: pa.Table) -> list[dict[str, Any]]:
    """What a model predicted as JSON values, an object for each entity.

    A number or a class is `prediction`, several classes a list of them, each with the `probabilities` of all; links are
    `links`, the most likely first. An `embedding` comes along where it was asked for.
    """
    extra = [name for name in ("probabilities", "embedding") if name in answer.column_names]
    first = "links" if isinstance(task, LinkTask) else "prediction"
    columns = {first: answer["prediction"].to_pylist()} | {name: answer[name].to_pylist() for name in extra}
    return [
        {name: _plain(value) for name, value in zip(columns, values, strict=True)}
        for values in zip(*columns.values(), strict=True)
    ]


def _key(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise TypeError(f"{value!r} is neither")
    return value


def _parse_time(value: Any, field: str) -> datetime:
    """A time in UTC, without its zone."""
    try:
        if isinstance(value, str):
            moment = datetime.fromisoformat(value)
            return moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment
        if isinstance(value, int | float) and not isinstance(value, bool):
            return _EPOCH + timedelta(seconds=value)
    except (ValueError, OverflowError):
        pass
    raise InvalidInput(f"{value!r} is no time: give Unix seconds, or ISO 8601 as 2024-05-01T12:00:00", field=field)


def _plain(value: Any) -> Any:
    """A value as JSON has it; what is no number is null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_plain(part) for part in value]
    return value if value is None or isinstance(value, str | int) else str(value)
