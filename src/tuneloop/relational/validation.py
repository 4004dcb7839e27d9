"""What is wrong with a dataset, found before anything is trained: each with its table, column and fix."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuneloop.errors import TuneloopError
from tuneloop.relational.dataset import Dataset
from tuneloop.relational.making import materialise
from tuneloop.relational.opening import OpenTables, first_line, open_tables
from tuneloop.relational.schema import SPLITS, ForeignKey, NodeTask, Table
from tuneloop.relational.sources import Sources
from tuneloop.relational.template import BadTemplate
from tuneloop.relational.values import can_be, readable_as

if TYPE_CHECKING:
    import ibis
    import ibis.expr.datatypes as dt

# Rows whose foreign key matches nothing are left aside; more than this share of them is a mistake.
MAX_UNMATCHED = 0.01
MAX_CLASSES = 1000


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        table: of the dataset; a split of the task is `task.train`, its query `task.template`.
        column: where one is to blame.
        problem: what is wrong, with the figures.
        fix: what to do about it.
    """

    table: str
    column: str | None
    problem: str
    fix: str

    @property
    def place(self) -> str:
        """Table and column."""
        return self.table if self.column is None else f"{self.table}.{self.column}"


class InvalidDataset(TuneloopError):
    """A dataset that nothing can be learnt from. `problems` are all that is wrong with it."""

    status = 422

    def __init__(self, problems: Sequence[Problem]) -> None:
        shown = "; ".join(f"{each.place} {each.problem}" for each in problems[:5])
        super().__init__(shown + (f"; and {len(problems) - 5} more" if len(problems) > 5 else ""))
        self.problems = tuple(problems)


def validate(dataset: Dataset, sources: Sources, *, memory_gb: float | None = None) -> list[Problem]:
    """All that is wrong with a dataset and its data: its tables in their order, then the task; empty when all is well.

    Raises:
        InvalidInput: what reads tables is not installed.
    """
    found = list(_structure(dataset))
    if found:  # names that mean nothing cannot be looked up in data
        return found
    wanted = {table.name: table.source for table in dataset.tables}
    with tempfile.TemporaryDirectory(prefix="tuneloop-") as folder:
        with open_tables(wanted, sources, memory_gb=memory_gb) as tables:
            for table in dataset.tables:
                found += _guarded(table.name, _table_problems(dataset, table, tables))
            if dataset.task is not None and dataset.task.template is not None:
                if found:  # a query over tables that are wrong says nothing new
                    return found
                try:
                    dataset = materialise(dataset, tables, Path(folder))
                except BadTemplate as error:
                    return [Problem("task.template", error.column, error.problem, error.fix)]
        if dataset.task is not None and dataset.task.source is not None:
            # A split may lie elsewhere than the tables.
            splits = {f"task.{name}": source for name, source in dataset.task.source.items()}
            keys = {each.table: dataset.table(each.table).source for each in _entities(dataset)}
            with open_tables(keys | splits, sources.and_under(Path(folder)), memory_gb=memory_gb) as tables:
                bad = {problem.table for problem in found}
                found += _guarded("task", _task_problems(dataset, tables, bad))
    return found


def _guarded(table: str, problems: Iterator[Problem]) -> Iterator[Problem]:
    """The problems; an engine that breaks down over the data is one more."""
    try:
        yield from problems
    except Exception as error:  # each engine has errors of its own
        yield Problem(table, None, f"cannot be read: {first_line(error)}", "check the data at its source")


# -- the document alone


def _structure(dataset: Dataset) -> Iterator[Problem]:
    names = [table.name for table in dataset.tables]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield Problem(name, None, "two tables have this name", "give each table a name of its own")
    if len(set(names)) < len(names):
        return
    for table in dataset.tables:
        for key in table.foreign_keys:
            yield from _link_problems(dataset, table.name, key)
        yield from _column_lists(table)
    if dataset.task is not None:
        for entity in _entities(dataset):
            yield from _link_problems(dataset, "task", entity)
    yield from _unconnected(dataset)


def _link_problems(dataset: Dataset, table: str, key: ForeignKey) -> Iterator[Problem]:
    target = next((each for each in dataset.tables if each.name == key.table), None)
    if target is None:
        names = ", ".join(each.name for each in dataset.tables)
        yield Problem(
            table, key.column, f"links to {key.link_to}, and there is no table {key.table}", f"link to one of {names}"
        )
    elif key.key not in {each.column for each in target.candidate_keys}:
        keys = ", ".join(f"{target.name}.{each.column}" for each in target.candidate_keys)
        yield Problem(
            table,
            key.column,
            f"links to {key.link_to}, which is no candidate key",
            f"link to {keys}" if keys else f'add CandidateKey("{key.key}") to {target.name}',
        )


def _column_lists(table: Table) -> Iterator[Problem]:
    for column in table.exclude:
        if column in table.keys or column == table.time_column:
            what = "the time column" if column == table.time_column else "a key"
            yield Problem(table.name, column, f"is excluded and is {what}", "take it out of one of the two")
    for column in table.columns:
        if column in table.keys:
            yield Problem(
                table.name, column, "is a key and has a type", "leave its type out: keys link, nothing is read off them"
            )


def _unconnected(dataset: Dataset) -> Iterator[Problem]:
    if len(dataset.tables) == 1:
        return
    linked: dict[str, set[str]] = {table.name: set() for table in dataset.tables}
    for table in dataset.tables:
        for key in table.foreign_keys:
            if key.table in linked:
                linked[table.name].add(key.table)
                linked[key.table].add(table.name)
    starts = [entity.table for entity in _entities(dataset) if entity.table in linked]
    if not starts:  # no task: the largest part is what the others ought to belong to
        starts = [max(linked, key=lambda name: len(_reached(linked, name)))]
    reached = set().union(*(_reached(linked, start) for start in starts))
    for name in linked:
        if name not in reached:
            yield Problem(
                name,
                None,
                f"no key connects it with {starts[0]}",
                "add a ForeignKey to it, or to a table that should link to it, or leave the table out",
            )


def _reached(linked: dict[str, set[str]], start: str) -> set[str]:
    reached, front = {start}, [start]
    while front:
        for name in linked[front.pop()] - reached:
            reached.add(name)
            front.append(name)
    return reached


def _entities(dataset: Dataset) -> tuple[ForeignKey, ...]:
    task = dataset.task
    if task is None:
        return ()
    return (task.target_entity,) if isinstance(task, NodeTask) else (task.source_entity, task.target_entity)


# -- tables


def _table_problems(dataset: Dataset, table: Table, tables: OpenTables) -> Iterator[Problem]:
    if table.name in tables.problems:
        yield Problem(table.name, None, tables.problems[table.name], f"mend the source, {table.source!r}")
        return
    data = tables[table.name]
    schema = data.schema()
    missing = list(_missing(table, schema))
    yield from missing
    for column, wanted in table.columns.items():
        if column in schema and not can_be(schema[column], wanted):
            yield Problem(
                table.name,
                column,
                f"is {_say(schema[column])} and cannot be read as {wanted}",
                f"{wanted} takes {readable_as(wanted)}: choose another type, or leave it to be inferred",
            )
    if table.time_column in schema and not _is_time(schema[table.time_column]):
        yield Problem(table.name, table.time_column, f"is {_say(schema[table.time_column])}, not a time", _TIME_FIX)
    for key in table.candidate_keys:
        if key.column in schema:
            yield from _key_problems(table.name, key.column, data)
    for foreign in table.foreign_keys:
        if foreign.column in schema and foreign.table in tables:
            target = tables[foreign.table]
            if foreign.key in target.schema():
                yield from _match_problems(table.name, foreign, data, target)
    yield from _label_seen(dataset, table, schema)


_TIME_FIX = "store it as a date or a timestamp, or name another time column"


def _missing(table: Table, schema: Any) -> Iterator[Problem]:
    roles = dict.fromkeys(table.exclude, "excluded") | dict.fromkeys(table.columns, "given a type")
    roles |= {key.column: "a foreign key" for key in table.foreign_keys}
    roles |= {key.column: "a candidate key" for key in table.candidate_keys}
    if table.time_column is not None:
        roles[table.time_column] = "the time column"
    for column, role in roles.items():
        if column not in schema:
            yield _missing_column(table.name, column, f"is {role}", schema)


def _missing_column(table: str, column: str, role: str, schema: Any) -> Problem:
    import difflib

    close = difflib.get_close_matches(column, schema.names, n=1)
    names = ", ".join(schema.names[:20]) + (", …" if len(schema.names) > 20 else "")
    return Problem(
        table,
        column,
        f"{role}, and there is no such column",
        f"did you mean {close[0]}?" if close else f"name one of {names}",
    )


def _key_problems(name: str, column: str, data: ibis.Table) -> Iterator[Problem]:
    values = data[column]
    counts = data.aggregate(rows=data.count(), nulls=values.isnull().sum(), distinct=values.nunique())
    found = counts.to_pyarrow().to_pylist()[0]
    rows, nulls = found["rows"], found["nulls"] or 0
    if nulls:
        yield Problem(
            name, column, f"is a candidate key with {nulls:,} nulls in {rows:,} rows", "remove these rows or fill them"
        )
    double = rows - nulls - found["distinct"]
    if double:
        example = (
            data.filter(values.notnull())
            .group_by(column)
            .having(data.count() > 1)
            .agg()
            .limit(1)
            .to_pyarrow()
            .to_pylist()
        )
        shown = f" ({example[0][column]!r} is one of them)" if example else ""
        yield Problem(
            name,
            column,
            f"is a candidate key with {double:,} duplicates in {rows:,} rows{shown}",
            "keep one row for each value, or name another candidate key",
        )


def _match_problems(name: str, key: ForeignKey, data: ibis.Table, target: ibis.Table) -> Iterator[Problem]:
    kind, wanted = data.schema()[key.column], target.schema()[key.key]
    if not _comparable(kind, wanted):
        yield Problem(
            name,
            key.column,
            f"is {_say(kind)} and {key.link_to}, which it links to, is {_say(wanted)}",
            "store both as the same type",
        )
        return
    values = data.select(value=data[key.column]).filter(lambda t: t.value.notnull())
    known = target.select(known=target[key.key]).filter(lambda t: t.known.notnull())
    total = int(values.count().to_pyarrow().as_py())
    unmatched = int(values.anti_join(known, values.value == known.known).count().to_pyarrow().as_py())
    if total and unmatched > MAX_UNMATCHED * total:
        yield Problem(
            name,
            key.column,
            f"{unmatched:,} of {total:,} values ({unmatched / total:.1%}) match nothing in {key.link_to}",
            f"add the missing rows to {key.table}, set these values to null, or link to another key",
        )


def _label_seen(dataset: Dataset, table: Table, schema: Any) -> Iterator[Problem]:
    """A column of the entity's own table that bears the label's name: a prediction would read the answer off it."""
    task = dataset.task
    if not isinstance(task, NodeTask) or task.target_entity.table != table.name or task.label_column in table.exclude:
        return
    if task.label_column in schema and task.label_column not in table.keys:
        yield Problem(
            table.name,
            task.label_column,
            f"is the label of the task {task.name} and a column of the entity's own table, known beforehand",
            f'exclude it: Table("{table.name}", exclude=["{task.label_column}"], …)',
        )


# -- the task


def _task_problems(dataset: Dataset, tables: OpenTables, bad: set[str]) -> Iterator[Problem]:
    task = dataset.task
    assert task is not None and task.source is not None
    spans: dict[str, tuple[Any, Any]] = {}
    for split, source in task.source.items():
        name = f"task.{split}"
        if name in tables.problems:
            yield Problem(name, None, tables.problems[name], f"mend the source, {source!r}")
            continue
        data = tables[name]
        schema = data.schema()
        columns = {task.entity.column: "names the entity", task.label_column: "holds the label"}
        if task.time_column is not None:
            columns[task.time_column] = "is the time column"
        missing = [
            _missing_column(name, column, role, schema) for column, role in columns.items() if column not in schema
        ]
        if missing:
            yield from missing
            continue
        if int(data.count().to_pyarrow().as_py()) == 0:
            yield Problem(name, None, "this split is empty", "give it examples, or split elsewhere in time")
            continue
        if task.time_column is not None:
            if not _is_time(schema[task.time_column]):
                yield Problem(name, task.time_column, f"is {_say(schema[task.time_column])}, not a time", _TIME_FIX)
            else:
                nulls = int(data[task.time_column].isnull().sum().to_pyarrow().as_py() or 0)
                if nulls:
                    yield Problem(name, task.time_column, f"{nulls:,} examples have no time", "remove or date them")
                spans[split] = _span(data, task.time_column)
        yield from _entity_matches(dataset, name, data, tables, bad)
        if isinstance(task, NodeTask):
            yield from _label_problems(task, name, data)
    yield from _order_problems(task.time_column or "", spans)


def _entity_matches(
    dataset: Dataset, name: str, data: ibis.Table, tables: OpenTables, bad: set[str]
) -> Iterator[Problem]:
    for entity in _entities(dataset):
        if entity.table in bad or entity.table not in tables:
            continue
        target = tables[entity.table]
        values = data
        if data.schema()[entity.column].is_array():  # a list of links
            values = data.select(data[entity.column].unnest().name(entity.column))
        yield from _match_problems(name, entity, values, target)


def _span(data: ibis.Table, column: str) -> tuple[Any, Any]:
    times = data[column].cast("timestamp")
    found = data.aggregate(first=times.min(), last=times.max()).to_pyarrow().to_pylist()[0]
    return found["first"], found["last"]


def _order_problems(column: str, spans: dict[str, tuple[Any, Any]]) -> Iterator[Problem]:
    in_order = [(name, spans[name]) for name in SPLITS if name in spans and spans[name][0] is not None]
    for (earlier, (_, last)), (later, (first, _)) in pairwise(in_order):
        if first < last:
            yield Problem(
                f"task.{later}",
                column,
                f"begins at {first} and {earlier} ends at {last}: what is learnt would know the future",
                f"split by time: every example of {later} at or after the last of {earlier}",
            )


def _label_problems(task: NodeTask, name: str, data: ibis.Table) -> Iterator[Problem]:
    column, kind = task.label_column, data.schema()[task.label_column]
    label = data[column]
    nulls = int(label.isnull().sum().to_pyarrow().as_py() or 0)
    if nulls:
        yield Problem(name, column, f"{nulls:,} examples have no label", "remove these examples")
    if task.task_type == "regression":
        if not kind.is_numeric():
            yield Problem(name, column, f"is {_say(kind)}; regression predicts a number", "store the label as a number")
        elif kind.is_floating() and (bad := int((label.isnan() | label.isinf()).sum().to_pyarrow().as_py() or 0)):
            yield Problem(name, column, f"{bad:,} labels are NaN or infinite", "remove these examples")
        return
    if task.task_type == "multilabel_classification":
        if not kind.is_array():
            yield Problem(name, column, f"is {_say(kind)}; a multilabel example has a list of labels", "store lists")
        return
    if kind.is_array():
        yield Problem(
            name, column, f"is {_say(kind)}; {task.task_type} has one label", "choose multilabel_classification"
        )
        return
    values = data.filter(label.notnull()).select(label).distinct().limit(MAX_CLASSES + 1).to_pyarrow()[0].to_pylist()
    if task.task_type == "binary_classification":
        odd = sorted((value for value in values if value not in (0, 1)), key=str)
        if odd:
            shown = ", ".join(map(repr, odd[:3])) + (", …" if len(odd) > 3 else "")
            yield Problem(
                name,
                column,
                f"has other values than 0 and 1: {shown}",
                "store 0 and 1 or true and false, or choose multiclass_classification or regression",
            )
        elif len(values) == 1 and name == "task.train":
            yield Problem(name, column, f"is {values[0]!r} in every example", "give examples of both labels")
    elif len(values) > MAX_CLASSES:
        yield Problem(name, column, f"has more than {MAX_CLASSES:,} classes", "choose regression, or merge classes")
    elif kind.is_floating():
        yield Problem(name, column, f"is {_say(kind)}, and classes are whole numbers or text", "store the classes so")


def _is_time(kind: dt.DataType) -> bool:
    return bool(kind.is_timestamp() or kind.is_date())


def _comparable(one: dt.DataType, other: dt.DataType) -> bool:
    return (
        (one.is_integer() and other.is_integer())
        or (one.is_string() and other.is_string())
        or (one.is_numeric() and other.is_numeric() and not (one.is_floating() or other.is_floating()))
        or one.copy(nullable=True) == other.copy(nullable=True)
    )


def _say(kind: dt.DataType) -> str:
    return str(kind.copy(nullable=True))
