"""What the columns of a table hold: their types, inferred from the engine's types and a little of the content."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tuneloop.relational.schema import ColumnType, Table

if TYPE_CHECKING:
    import ibis
    import ibis.expr.datatypes as dt

# Text with at most so many distinct values, and each found so often on average, is a category.
MAX_CATEGORIES = 1000
MIN_ROWS_PER_CATEGORY = 2.0

# What an engine's type can be read as, beside what it is inferred to be.
_READABLE: dict[ColumnType, str] = {
    "float": "numbers or true and false",
    "integer": "numbers or true and false",
    "category": "text, numbers, true and false, or dates",
    "multi_categorical": "lists of text or numbers, or text with commas",
    "datetime": "dates, times, or text that says one in ISO 8601",
    "text": "text",
    "embedding": "lists of numbers",
}


@dataclass(frozen=True)
class ColumnFacts:
    """What is known of a column from one look at it."""

    nulls: int
    distinct: int | None  # of text only


@dataclass(frozen=True)
class TableFacts:
    """What is known of a table from one look at it."""

    rows: int
    columns: dict[str, ColumnFacts]


def look(table: ibis.Table) -> TableFacts:
    """Rows, nulls and, of text, distinct values (about), in one pass over the table."""
    schema = table.schema()
    wanted = {"rows": table.count()}
    for number, (name, kind) in enumerate(schema.items()):
        wanted[f"null_{number}"] = table[name].isnull().sum()
        if kind.is_string():
            wanted[f"distinct_{number}"] = table[name].approx_nunique()
    found = table.aggregate(**wanted).to_pyarrow().to_pylist()[0]
    return TableFacts(
        rows=int(found["rows"]),
        columns={
            name: ColumnFacts(int(found[f"null_{number}"] or 0), found.get(f"distinct_{number}"))
            for number, name in enumerate(schema.names)
        },
    )


def column_types(table: Table, schema: Mapping[str, dt.DataType], facts: TableFacts) -> dict[str, ColumnType]:
    """The types of a table's columns that are no keys, without those that are excluded.

    Columns of a kind that nothing can be learnt from (bytes, JSON, maps) are left out, unless they were given a type.
    """
    found: dict[str, ColumnType] = {}
    for name, kind in schema.items():
        if name in table.exclude or name in table.keys:
            continue
        inferred = table.columns.get(name) or infer(kind, facts.rows, facts.columns[name])
        if inferred is not None:
            found[name] = inferred
    return found


def infer(kind: dt.DataType, rows: int, facts: ColumnFacts) -> ColumnType | None:
    """The type of a column from the engine's type; None when nothing can be learnt from it."""
    if kind.is_boolean():
        return "category"
    if kind.is_integer():
        return "integer"
    if kind.is_floating() or kind.is_decimal():
        return "float"
    if kind.is_timestamp() or kind.is_date():
        return "datetime"
    if kind.is_string():
        filled = rows - facts.nulls
        distinct = facts.distinct or 0
        return "category" if distinct <= min(MAX_CATEGORIES, filled / MIN_ROWS_PER_CATEGORY) else "text"
    if kind.is_array():
        inner: Any = kind
        return "embedding" if inner.value_type.is_floating() else "multi_categorical"
    return None


def can_be(kind: dt.DataType, wanted: ColumnType) -> bool:
    """Whether a column of an engine's type can be read as this."""
    simple = kind.is_numeric() or kind.is_boolean()
    inner: Any = kind.value_type if kind.is_array() else None
    fits: dict[ColumnType, bool] = {
        "float": simple,
        "integer": simple,
        "category": simple or kind.is_string() or kind.is_temporal(),
        "datetime": kind.is_timestamp() or kind.is_date() or kind.is_string(),
        "text": kind.is_string(),
        "multi_categorical": kind.is_string() or (inner is not None and (inner.is_string() or inner.is_integer())),
        "embedding": inner is not None and inner.is_numeric(),
    }
    return fits[wanted]


def readable_as(wanted: ColumnType) -> str:
    """What a column must hold to be read as this, in words."""
    return _READABLE[wanted]
