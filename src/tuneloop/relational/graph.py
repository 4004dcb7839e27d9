"""The tables as a graph in memory: a row is a node, a foreign key an edge, and each row has the time it became known.

Rows are numbered by time, then by their content, so that what comes later changes no number of what came before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tuneloop.relational.opening import OpenTables
from tuneloop.relational.schema import ColumnType, ForeignKey, Table

if TYPE_CHECKING:
    import pyarrow as pa

Ints = NDArray[np.int64]

ALWAYS = np.iinfo(np.int64).min  # the time of rows that were always known
NEVER = np.iinfo(np.int64).max  # of rows that never were: a timed table's without a time
LABELS = "#labels"  # no table can be called so
Columns = Mapping[str, Mapping[str, ColumnType]]  # by table


@dataclass(frozen=True)
class Rows:
    """The rows of one table.

    Attributes:
        times: when each became known, (N,), microseconds, rising.
        timed: whether they have times at all.
        columns: what they hold, without their keys.
    """

    times: Ints
    timed: bool
    columns: pa.Table

    def __len__(self) -> int:
        return len(self.times)


@dataclass(frozen=True)
class Link:
    """A foreign key, in both directions.

    Attributes:
        child: the table it stands in.
        parent: the table it leads to.
        parents: for each row of the child the row of the parent; -1 for none, (N,).
        starts: where the rows of each parent begin in `rows`, (M + 1,).
        rows: rows of the child by parent, in the order of time.
    """

    child: str
    parent: str
    parents: Ints
    starts: Ints
    rows: Ints


@dataclass(frozen=True)
class Graph:
    """Rows by table, and the foreign keys between them.

    Attributes:
        tables: the rows by table.
        links: the foreign keys, in the order of the tables.
        entity: the table of whom examples are about.
        keys: the keys of the entity's rows.
        target: the table of what entities may be linked to; empty where nothing is.
        target_keys: the keys of its rows.
    """

    tables: Mapping[str, Rows]
    links: tuple[Link, ...]
    entity: str
    keys: pa.Array
    target: str = ""
    target_keys: pa.Array | None = None

    def turned(self) -> Graph:
        """The same rows, seen from what entities may be linked to."""
        assert self.target_keys is not None
        return Graph(self.tables, self.links, self.target, self.target_keys)

    def find(self, keys: pa.ChunkedArray) -> Ints:
        """The rows of entities, (N,); -1 for those that are not there."""
        return _places(keys, self.keys)


def read_graph(
    tables: Sequence[Table],
    data: OpenTables,
    columns: Columns,
    entity: ForeignKey,
    history: pa.Table | None,
    target: ForeignKey | None = None,
) -> Graph:
    """Read tables into memory.

    Args:
        tables: their descriptions.
        data: their rows.
        columns: those that are read, by table.
        entity: whom examples are about.
        history: labels as rows, `key`, `known` and `label`; they become the table `LABELS`.
        target: what entities may be linked to.
    """
    rows: dict[str, Rows] = {}
    keys: dict[tuple[str, str], pa.Array] = {}
    for table in tables:
        rows[table.name], found = _read(table, data, list(columns[table.name]))
        keys |= {(table.name, name): values for name, values in found.items()}
    links = [
        _link(table.name, key.table, keys[table.name, key.column], keys[key.table, key.key], len(rows[key.table]))
        for table in tables
        for key in table.foreign_keys
    ]
    own = keys[entity.table, entity.key]
    if history is not None:
        history = history.sort_by([("known", "ascending"), ("key", "ascending")])
        known = history["known"].to_numpy().astype("datetime64[us]").astype(np.int64)
        rows[LABELS] = Rows(known, True, history.select(["label"]))
        links.append(_link(LABELS, entity.table, history["key"].combine_chunks(), own, len(own)))
    if target is None:
        return Graph(rows, tuple(links), entity.table, own)
    return Graph(rows, tuple(links), entity.table, own, target.table, keys[target.table, target.key])


def _read(table: Table, data: OpenTables, columns: Sequence[str]) -> tuple[Rows, dict[str, pa.Array]]:
    """A table's rows, and its keys by column."""
    source = data[table.name]
    wanted: dict[str, Any] = {}
    if table.time_column is not None:
        wanted["time"] = source[table.time_column].cast("timestamp")
    wanted |= {f"k{number}": source[name] for number, name in enumerate(table.keys)}
    wanted |= {f"c{number}": source[name] for number, name in enumerate(columns)}
    if not wanted:
        wanted["k0"] = source[source.columns[0]]
    answer = source.select(**wanted).order_by(list(wanted)).to_pyarrow()
    if table.time_column is None:
        times = np.full(len(answer), ALWAYS)
    else:
        times = answer["time"].to_numpy().astype("datetime64[us]").astype(np.int64)
        times[times == ALWAYS] = NEVER  # numpy's NaT is the smallest number
        if (np.diff(times) < 0).any():  # engines differ in where nulls go
            order = np.argsort(times, kind="stable")
            times, answer = times[order], answer.take(order)
    held = answer.select([f"c{number}" for number in range(len(columns))]).rename_columns(list(columns))
    keys = {name: answer[f"k{number}"].combine_chunks() for number, name in enumerate(table.keys)}
    return Rows(times, table.time_column is not None, held), keys


def _link(child: str, parent: str, foreign: pa.Array, keys: pa.Array, count: int) -> Link:
    parents = _places(foreign, keys)
    linked = np.flatnonzero(parents >= 0)
    rows = linked[np.argsort(parents[linked], kind="stable")]  # within a parent they stay in the order of time
    starts = np.zeros(count + 1, np.int64)
    np.cumsum(np.bincount(parents[linked], minlength=count), out=starts[1:])
    return Link(child, parent, parents, starts, rows)


def _places(wanted: Any, keys: pa.Array) -> Ints:
    """Where values stand among keys; -1 for nulls and for those that do not."""
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        wanted = pc.cast(wanted, keys.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        wanted, keys = pc.cast(wanted, pa.string()), pc.cast(keys, pa.string())
    found = pc.index_in(wanted, keys, skip_nulls=True)
    return np.asarray(pc.fill_null(found, -1).to_numpy(), np.int64)


def ranges(starts: Ints, lengths: Ints) -> Ints:
    """The numbers start, start + 1, … of each, one after another."""
    before = np.cumsum(lengths) - lengths
    return np.asarray(np.repeat(starts - before, lengths) + np.arange(lengths.sum()))
