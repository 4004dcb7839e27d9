"""A dataset for the eye: what its tables hold, in the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Column
from rich.table import Table as Grid

from tuneloop.errors import InvalidInput
from tuneloop.relational.opening import OpenTables, open_tables
from tuneloop.relational.schema import LinkTask, Table, Task
from tuneloop.relational.sources import Sources
from tuneloop.relational.values import TableFacts, column_types, look

if TYPE_CHECKING:
    import ibis

SAMPLES = 3
_SAMPLE_ROWS = 50
_LONGEST = 28


def show(tables: Sequence[Table], task: Task | None, sources: Sources, console: Console) -> None:
    """Print each table's columns with their types, keys, nulls and samples, and the splits of the task.

    Raises:
        InvalidInput: a table cannot be read.
    """
    with open_tables({table.name: table.source for table in tables}, sources) as opened:
        for table in tables:
            console.print(_table_grid(table, _opened(opened, table.name, table.source)))
            console.print()
    if task is not None:
        _show_task(task, sources, console)


def types(tables: Sequence[Table], sources: Sources) -> dict[str, dict[str, str]]:
    """What the columns of each table hold, by name, keys by what they are stored as.

    Raises:
        InvalidInput: a table cannot be read.
    """
    found: dict[str, dict[str, str]] = {}
    with open_tables({table.name: table.source for table in tables}, sources) as opened:
        for table in tables:
            data = _opened(opened, table.name, table.source)
            schema = data.schema()
            read_as = column_types(table, schema, look(data))
            found[table.name] = {
                name: read_as.get(name) or str(kind.copy(nullable=True)) for name, kind in schema.items()
            }
    return found


def _opened(tables: OpenTables, name: str, source: str) -> ibis.Table:
    if name in tables.problems:
        raise InvalidInput(f"{name} ({source}): {tables.problems[name]}")
    return tables[name]


def _table_grid(table: Table, data: ibis.Table) -> Grid:
    facts = look(data)
    schema = data.schema()
    types = column_types(table, schema, facts)
    samples = data.limit(_SAMPLE_ROWS).to_pyarrow().to_pydict()
    kind = "edge table" if table.is_edge else "table"
    grid = Grid(
        "column",
        "stored as",
        "read as",
        "role",
        Column("nulls", justify="right"),
        "samples",
        title=f"[bold]{escape(table.name)}[/bold]  {kind}, {facts.rows:,} rows, {escape(table.source)}",
        title_justify="left",
        title_style="",
    )
    for name, stored in schema.items():
        role = _role(table, name)
        style = "dim" if name in table.exclude else ""
        grid.add_row(
            escape(name),
            str(stored.copy(nullable=True)),
            types.get(name, ""),
            escape(role),
            _share(facts, name),
            escape(", ".join(_samples(samples[name]))),
            style=style,
        )
    return grid


def _role(table: Table, name: str) -> str:
    roles = ["candidate key"] if name in {key.column for key in table.candidate_keys} else []
    roles += [f"→ {key.link_to}" for key in table.foreign_keys if key.column == name]
    if name == table.time_column:
        roles.append("time")
    if name in table.exclude:
        roles.append("excluded")
    return ", ".join(roles)


def _share(facts: TableFacts, name: str) -> str:
    nulls = facts.columns[name].nulls
    if not nulls:
        return ""
    return f"{nulls:,} ({nulls / facts.rows:.0%})" if nulls * 200 >= facts.rows else f"{nulls:,}"


def _samples(values: list[Any]) -> Iterator[str]:
    seen: list[str] = []
    for value in values:
        if value is not None and (text := _short(value)) not in seen:
            seen.append(text)
            yield text
        if len(seen) == SAMPLES:
            return


def _short(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else " ".join(str(value).split())
    text = text.removesuffix(" 00:00:00")
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _show_task(task: Task, sources: Sources, console: Console) -> None:
    what = f"{task.task_type} of {task.label_column} for each of {task.entity.link_to}"
    horizon = f", looking {task.horizon.total_seconds() / 86400:g} days ahead" if task.horizon is not None else ""
    console.print(f"[bold]task {escape(task.name)}[/bold]  {escape(what)}{horizon}, judged by {task.evaluation_metric}")
    if task.source is None:
        console.print(escape(task.template or ""))
        return
    grid = Grid(
        "split", Column("examples", justify="right"), "from", "to", Column("entities", justify="right"), "label"
    )
    with open_tables(dict(task.source.items()), sources) as splits:
        for name, source in task.source.items():
            data = _opened(splits, name, source)
            grid.add_row(name, *_split_row(task, data))
    console.print(grid)


def _split_row(task: Task, data: ibis.Table) -> list[str]:
    wanted: dict[str, Any] = {"rows": data.count(), "entities": data[task.entity.column].nunique()}
    if task.time_column is not None:
        wanted |= {"first": data[task.time_column].min(), "last": data[task.time_column].max()}
    label, kind = data[task.label_column], data.schema()[task.label_column]
    numeric = (kind.is_numeric() or kind.is_boolean()) and not isinstance(task, LinkTask)
    if numeric:
        wanted["mean"] = label.cast("float64").mean()
    elif kind.is_array():
        wanted["mean"] = label.length().mean()
    else:
        wanted["distinct"] = label.nunique()
    found = data.aggregate(**wanted).to_pyarrow().to_pylist()[0]
    if task.task_type == "binary_classification" and numeric:
        said = f"{found['mean']:.1%} true"
    elif kind.is_array():
        said = f"{found['mean']:.1f} each"
    elif numeric and task.task_type == "regression":
        said = f"{found['mean']:.4g} on average"
    else:
        said = f"{found.get('distinct', '')} distinct"
    return [
        f"{found['rows']:,}",
        _short(found.get("first", "")),
        _short(found.get("last", "")),
        f"{found['entities']:,}",
        said,
    ]
