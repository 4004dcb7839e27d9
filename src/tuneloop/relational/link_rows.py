"""Who was linked to what and when, and what the linked rows say of themselves, as arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tuneloop.errors import InvalidInput
from tuneloop.relational.dataset import Dataset
from tuneloop.relational.schema import ColumnType, ForeignKey, LinkTask, Table

if TYPE_CHECKING:
    import ibis
    import pyarrow as pa

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
DAY = 86_400_000_000  # microseconds
ALWAYS = np.iinfo(np.int64).min  # the time of rows that were always known
_STEPS = (0, 1, 7, 28)  # days that cut-offs are rounded down to


@dataclass(frozen=True)
class LinkTable:
    """The table that links sources to targets, and its columns that say so."""

    table: Table
    source: str
    target: str


@dataclass(frozen=True)
class Rows:
    """The rows of entities: their keys, since when they are known, and their columns.

    Attributes:
        keys: (R,), in the order of their times.
        born: (R,) microseconds since 1970; `ALWAYS` where the table has no time.
        categories: for each column its values' codes, (R,), -1 for null, and the values.
        numbers: for each column, (R,), NaN for null; dates as days since 1970.
        dates: which of the numbers are dates.
        timed: whether the table has a time.
    """

    keys: pa.Array
    born: Ints
    categories: Mapping[str, tuple[Ints, tuple[str, ...]]]
    numbers: Mapping[str, Floats]
    dates: frozenset[str]
    timed: bool = False

    def __len__(self) -> int:
        return len(self.born)

    def find(self, keys: pa.Array | pa.ChunkedArray) -> Ints:
        """The rows of keys, -1 where there is none."""
        import pyarrow.compute as pc

        found = pc.fill_null(pc.index_in(pc.cast(keys, self.keys.type), self.keys, skip_nulls=True), -1)
        return np.asarray(found.to_numpy(), np.int64)


@dataclass(frozen=True)
class LinkRows:
    """Links in the order of their times, then of their source, then of their target.

    Attributes:
        keys: (S,) of the sources, in the order of their first link, so that later links change no earlier code.
        sources: (L,) codes.
        targets: (L,) rows of the targets.
        times: (L,) microseconds since 1970.
        order: (L,) links by source, each source's in the order of time.
        starts: (S + 1,) where each source's begin in `order`.
    """

    keys: pa.Array
    sources: NDArray[np.int32]
    targets: NDArray[np.int32]
    times: Ints
    order: Ints
    starts: Ints

    def until(self, cut: int) -> int:
        """How many links are dated at or before this."""
        return int(np.searchsorted(self.times, cut, side="right"))


def find_link_table(dataset: Dataset, data: Mapping[str, ibis.Table]) -> LinkTable:
    """The table with foreign keys to both the source and the target of a link task; of several the longest.

    Raises:
        InvalidInput: there is none, or it has no time.
    """
    task = dataset.task
    assert isinstance(task, LinkTask)
    found: list[LinkTable] = []
    for table in dataset.tables:
        sources, targets = _keys_to(table, task.source_entity), _keys_to(table, task.target_entity)
        pairs = [(one, other) for one in sources for other in targets if one != other]
        if pairs:
            found.append(LinkTable(table, *pairs[0]))
    if not found:
        raise InvalidInput(
            f"no table links {task.source_entity.link_to} to {task.target_entity.link_to}: "
            "give the table of earlier links a foreign key to each",
            field="dataset.tables",
        )
    if len(found) > 1:
        found.sort(key=lambda each: -int(data[each.table.name].count().to_pyarrow().as_py()))
    if found[0].table.time_column is None or task.time_column is None:
        what = f"table {found[0].table.name!r}" if task.time_column is not None else "the task"
        raise InvalidInput(f"{what} has no time_column: links are learnt from what came before them", field="dataset")
    return found[0]


def _keys_to(table: Table, entity: ForeignKey) -> list[str]:
    """The columns of a table that hold an entity, that of the entity's own name first."""
    found = [key.column for key in table.foreign_keys if key.link_to == entity.link_to]
    return sorted(found, key=lambda column: column != entity.column)


def read_rows(table: Table, key: str, types: Mapping[str, ColumnType], rows: ibis.Table) -> Rows:
    """A table's rows.

    Args:
        table: its description.
        key: the column of its key.
        types: the columns to read. Texts, lists and embeddings are left out.
        rows: its rows.
    """
    wanted: dict[str, Any] = {"key": rows[key]}
    if table.time_column is not None:
        wanted["born"] = rows[table.time_column].cast("timestamp")
    names = {name: f"v{at}" for at, name in enumerate(types)}
    for name, kind in types.items():
        if kind == "category":
            wanted[names[name]] = rows[name].cast("string")
        elif kind == "datetime":
            wanted[names[name]] = rows[name].cast("timestamp").epoch_seconds() / 86400.0
        elif kind in ("integer", "float"):
            wanted[names[name]] = rows[name].cast("float64")
    view = rows.select(**wanted).filter(lambda t: t.key.notnull())
    answer = view.order_by(["born", "key"] if "born" in wanted else ["key"]).to_pyarrow()
    categories, numbers = {}, {}
    for name, kind in types.items():
        if kind == "category":
            categories[name] = _codes(answer[names[name]])
        elif names[name] in wanted:
            numbers[name] = np.asarray(answer[names[name]].to_numpy(), float)
    dates = frozenset(name for name, kind in types.items() if kind == "datetime")
    born = _micros(answer["born"]) if "born" in wanted else np.full(len(answer), ALWAYS)
    return Rows(answer["key"].combine_chunks(), born, categories, numbers, dates, "born" in wanted)


def read_links(found: LinkTable, targets: Rows, rows: ibis.Table) -> LinkRows:
    """All links to targets that there are."""
    view = rows.select(
        source=rows[found.source], target=rows[found.target], time=rows[found.table.time_column].cast("timestamp")
    )
    view = view.filter(view.source.notnull() & view.target.notnull() & view.time.notnull())
    answer = view.order_by(["time", "source", "target"]).to_pyarrow()
    at = targets.find(answer["target"])
    known = np.flatnonzero(at >= 0)
    if len(known) < len(at):
        answer, at = answer.take(known), at[known]
    codes = answer["source"].combine_chunks().dictionary_encode()
    sources = np.asarray(codes.indices.to_numpy(), np.int32)
    counts = np.bincount(sources, minlength=len(codes.dictionary))
    return LinkRows(
        codes.dictionary,
        sources,
        at.astype(np.int32),
        _micros(answer["time"]),
        np.argsort(sources, kind="stable"),
        np.concatenate([[0], np.cumsum(counts)]),
    )


def _codes(column: pa.ChunkedArray) -> tuple[Ints, tuple[str, ...]]:
    import pyarrow.compute as pc

    coded = column.combine_chunks().dictionary_encode()
    return np.asarray(pc.fill_null(coded.indices, -1).to_numpy(), np.int64), tuple(coded.dictionary.to_pylist())


def _micros(column: pa.ChunkedArray) -> Ints:
    """Times as microseconds since 1970; a row without one is never known."""
    times = column.to_numpy().astype("datetime64[us]")
    found: Ints = times.astype(np.int64)
    return np.where(np.isnat(times), np.iinfo(np.int64).max, found)


def rounding(cuts: NDArray[np.datetime64], most: int) -> int:
    """Days that cut-offs are rounded down to, so that there are not too many of them; 0 for not at all."""
    micros = np.unique(cuts).astype("datetime64[us]").astype(np.int64)
    return next((days for days in _STEPS if len(np.unique(round_down(micros, days))) <= most), _STEPS[-1])


def round_down(moments: Ints, days: int) -> Ints:
    """Microseconds since 1970, rounded down to whole spans of so many days."""
    return moments if not days else moments // (days * DAY) * (days * DAY)
