"""What each table is worth to a model: how much worse it predicts when the table's rows are dealt to others."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from tuneloop.relational.dataset import Dataset
from tuneloop.relational.examples import Examples
from tuneloop.relational.judging import value_of
from tuneloop.relational.learner import Predictions, Watcher
from tuneloop.relational.opening import OpenTables
from tuneloop.relational.schema import Table

if TYPE_CHECKING:
    import ibis
    import pyarrow as pa

Predict = Callable[[Dataset, OpenTables, Examples, Examples | None, Watcher], Predictions]
MOST_EXAMPLES = 500
MOST_REPEATS = 5
OVERTIME = 3
MOST_COPIED = 2_000_000  # rows of a table that are kept dealt


def importance_by_table(
    predict: Predict,
    dataset: Dataset,
    data: OpenTables,
    examples: Examples,
    labelled: Examples | None,
    *,
    watcher: Watcher,
    classes: tuple[str, ...] = (),
    seed: int = 0,
    repeats: int | None = None,
    seconds: float = 60,
) -> dict[str, float]:
    """How much worse the task's metric becomes without each table, the most important first.

    "Without" means that the table is as before, and says nothing about whom it is read for: the entities that its
    foreign keys name are exchanged among each other, each kind of entity as a whole, and where other tables link to it,
    its rows swap what they say. Entities of the examples swap with one another, so that what a model then sees is what
    it is used to: the rows of another entity that is asked about (Breiman, Random Forests, 2001, section 10, for
    tables).

    Args:
        predict: `Fitted.predict`, or what predicts alike.
        dataset: the tables and the task.
        data: the tables' rows.
        examples: with labels, of validation; at most 500 of them are looked at.
        labelled: as `Fitted.predict` takes them.
        watcher: whoever waits.
        classes: the names of classes, as predictions have them.
        seed: of every choice.
        repeats: how often each table is dealt, however long it takes; by default as there is time, five times at most.
        seconds: about how long it may take by default. Each table is dealt once at least, but when three times as
            long has passed the tables that are left are left out, and the log says so.

    Returns:
        By table that was measured, in the metric's unit; above zero where the model needs the table.
    """
    task = dataset.task
    assert task is not None
    rng = np.random.default_rng(seed)
    if len(examples) > MOST_EXAMPLES:
        examples = examples.take(np.sort(rng.choice(len(examples), MOST_EXAMPLES, replace=False)))

    def value(tables: OpenTables) -> float:
        watcher.check()
        found = predict(dataset, tables, examples, labelled, watcher)
        return value_of(task, task.evaluation_metric, examples, found, classes)

    begun = time.monotonic()
    whole = value(data)
    until = begun + OVERTIME * seconds if repeats is None else float("inf")
    if repeats is None:
        each = max(time.monotonic() - begun, 1e-3)
        repeats = int(np.clip(seconds / each // len(dataset.tables), 1, MOST_REPEATS))
    worse: dict[str, float] = {}
    for number, table in enumerate(dataset.tables):
        if time.monotonic() > until:
            left = ", ".join(each.name for each in dataset.tables[number:])
            watcher.log(f"no time to measure what these tables are worth: {left}")
            break
        values = []
        for repeat in range(repeats):
            watcher.progress(f"permuting {table.name}")
            with dealt(dataset, data, table, examples, seed=[seed, number, repeat]) as tables:
                values.append(value(tables))
        worse[table.name] = (1 if task.maximise else -1) * (whole - float(np.mean(values)))
    return dict(sorted(worse.items(), key=lambda item: (np.isnan(item[1]), -item[1])))


@contextmanager
def dealt(
    dataset: Dataset, data: OpenTables, table: Table, examples: Examples, *, seed: int | Sequence[int]
) -> Iterator[OpenTables]:
    """The tables with the rows of one dealt to others.

    Args:
        dataset: the tables' descriptions, and the task.
        data: the tables' rows.
        table: whose rows are dealt.
        examples: whose entities swap among each other.
        seed: of the choice.

    Yields:
        The tables, valid within the `with` only.
    """
    assert dataset.task is not None
    rng = np.random.default_rng(seed)
    entity = dataset.task.entity
    asked = {(entity.table, entity.key): examples.keys}
    brought: list[ibis.Table] = []
    try:
        rows = data[table.name]
        linked = {(key.table, key.key) for each in dataset.tables for key in each.foreign_keys}
        linked |= {(entity.table, entity.key), (dataset.task.target_entity.table, dataset.task.target_entity.key)}
        own = [key.column for key in table.candidate_keys if (table.name, key.column) in linked]
        if own:
            swap = _swapped(data, rows[own[0]], asked.get((table.name, own[0])), rng, brought)
            rows = _with_others(rows, table, own[0], swap)
        for key in table.foreign_keys:
            column = data[table.name][key.column]
            rows = _renamed(rows, key.column, _swapped(data, column, asked.get((key.table, key.key)), rng, brought))
        if int(data[table.name].count().to_pyarrow().as_py()) <= MOST_COPIED:
            # A model asks many times, and each time the rows would be dealt again.
            rows = data.bring(rows, "dealt")
            brought.append(rows)
        yield OpenTables(data.engine, {**data, table.name: rows}, data.problems)
    finally:
        for each in reversed(brought):
            data.drop(each)


def _with_others(rows: ibis.Table, table: Table, key: str, swap: ibis.Table) -> ibis.Table:
    """The rows with what others of them say; keys, and when a row became known, stay."""
    kept = [column.column for column in table.candidate_keys]
    if table.time_column is not None and table.time_column not in kept:
        kept.append(table.time_column)
    said = [name for name in rows.columns if name not in kept]
    others = rows.select(dealt_by=rows[key], **{f"dealt_{at}": rows[name] for at, name in enumerate(said)})
    found = rows.select(*kept).left_join(swap, rows[key] == swap.dealt_from)
    found = found.left_join(others, found.dealt_to == others.dealt_by)
    columns: dict[str, Any] = {name: found[name] for name in kept}
    columns |= {name: found[f"dealt_{at}"] for at, name in enumerate(said)}
    return found.select(**{name: columns[name] for name in rows.columns})


def _renamed(rows: ibis.Table, column: str, swap: ibis.Table) -> ibis.Table:
    """The rows with another entity in place of each of a foreign key's."""
    found = rows.left_join(swap, rows[column] == swap.dealt_from)
    return found.select(**{name: found.dealt_to if name == column else found[name] for name in rows.columns})


def _swapped(
    data: OpenTables, column: Any, asked: pa.ChunkedArray | None, rng: np.random.Generator, brought: list[ibis.Table]
) -> ibis.Table:
    """For each value of a column another one, `dealt_from` and `dealt_to`: those asked about swap with one another."""
    import pyarrow as pa
    import pyarrow.compute as pc

    values = column.name("value").as_table().filter(lambda t: t.value.notnull()).distinct().order_by("value")
    known = values.to_pyarrow()["value"].combine_chunks()
    first = np.zeros(len(known), bool)
    if asked is not None:
        first = pc.is_in(known, asked.combine_chunks().cast(known.type)).to_numpy(zero_copy_only=False)
    if first.sum() < 2:  # nobody to swap with
        first[:] = False
    to = np.arange(len(known))
    for part in (np.flatnonzero(first), np.flatnonzero(~first)):
        # A round of all of a part: everybody becomes somebody else.
        order = rng.permutation(part)
        to[order] = np.roll(order, 1)
    table = pa.table({"dealt_from": known, "dealt_to": known.take(pa.array(to))})
    brought.append(data.bring(table, "dealt"))
    return brought[-1]
