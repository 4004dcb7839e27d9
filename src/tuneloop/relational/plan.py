"""What is computed of each entity's rows: chosen once, from what was known at the last training time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import TypeAdapter

from tuneloop.relational.schema import ColumnType, ForeignKey, Table
from tuneloop.relational.values import column_types, look
from tuneloop.relational.ways import Way, find_ways

if TYPE_CHECKING:
    from datetime import datetime

    import ibis

# Days that windows may have.
LADDER = (1, 3, 7, 14, 30, 60, 90, 180, 365, 730, 1095, 1825, 3650)
_SEASONS = (90, 365)  # of all rows
# How many rows of an entity the windows hold, about.
_ROWS_IN_WINDOWS = (3, 10, 30)
TOP_CATEGORIES = 4
VOCABULARY = 256
MAX_CODES = 256  # integers with at most so many values are looked at as categories, too
MAX_SIBLING_ROWS = 2_000_000
MAX_EXPANDED = 200_000_000


@dataclass(frozen=True)
class Measured:
    """A column of a way's rows.

    Attributes:
        name: the column.
        parent: the foreign key of the rows that leads to the table it stands in; None for their own.
        among: it is read relative to the rows with the same value of this foreign key at the same time.
        nullable: whether nulls were seen, so that their share says something.
    """

    name: str
    parent: str | None = None
    among: str | None = None
    nullable: bool = False

    @property
    def words(self) -> str:
        """It as a person would say it."""
        if self.among is not None:
            return f"{self.name} relative to the same {self.among}"
        return self.name if self.parent is None else f"{self.name} of the {self.parent}"


@dataclass(frozen=True)
class Source:
    """A way, and what is computed of its rows."""

    way: Way
    timed: bool
    windows: tuple[int, ...]
    numbers: tuple[Measured, ...]
    categories: tuple[tuple[Measured, tuple[str, ...]], ...]
    times: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """All that is computed for an example.

    Attributes:
        entity: whom examples are about.
        own: columns of the entity's row, with the values that categories are coded by.
        sources: ways and what is computed along each.
        history: the windows over the entity's own labels; None where they are not used.
        left_out: ways along which examples would meet too many rows, in words.
    """

    entity: ForeignKey
    own: Mapping[str, tuple[ColumnType, tuple[str, ...]]]
    sources: tuple[Source, ...]
    history: Source | None = None
    left_out: tuple[str, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """It as JSON values."""
        found: dict[str, Any] = _adapter().dump_python(self, mode="json")
        return found

    @classmethod
    def from_json(cls, document: Any) -> Plan:
        """What `to_json` wrote."""
        return _adapter().validate_python(document)


@cache
def _adapter() -> TypeAdapter[Plan]:
    return TypeAdapter(Plan)


class Planner:
    """Chooses what is computed.

    Args:
        tables: the tables' descriptions.
        data: their rows.
        entity: whom examples are about.
        until: the last training time: later rows choose nothing.
    """

    def __init__(
        self,
        tables: list[Table],
        data: Mapping[str, ibis.Table],
        entity: ForeignKey,
        until: datetime | None,
    ) -> None:
        self._tables = {table.name: table for table in tables}
        self._data = {name: self._known(name, data[name], until) for name in self._tables}
        self._facts = {name: look(rows) for name, rows in self._data.items()}
        self._types = {
            name: column_types(table, self._data[name].schema(), self._facts[name])
            for name, table in self._tables.items()
        }
        self._entity = entity

    def plan(self, *, hops: int, examples: int, times: int, history: Source | None) -> Plan:
        """All ways of so many hops, without those on which examples would meet too many rows.

        Args:
            hops: 1 or 2.
            examples: how many there are, about.
            times: how many different times they have.
            history: what is computed of the entity's own labels.
        """
        ways = self._told_apart(find_ways(list(self._tables.values()), self._entity, hops))
        ways += [Way(name, None) for name, table in self._tables.items() if table.time_column is not None]
        sources, left_out = [], []
        for way in ways:
            if self._facts[way.table].rows == 0:
                continue
            if way.shared and self._expanded(way, examples, times) > MAX_EXPANDED:
                left_out.append(way.words)
                continue
            source = self._source(way)
            if way.step is not None and source.timed and not source.windows:
                continue  # what happened at one time alone, such as the last order's lines, has no past
            sources.append(source)
        return Plan(self._entity, self._own(), tuple(sources), history, tuple(left_out))

    def _told_apart(self, ways: list[Way]) -> list[Way]:
        """The ways without those that lead to the same entity by a key of the same name from a smaller table."""
        best: dict[tuple[str, str, str], Way] = {}
        for way in ways:
            if way.step is not None:
                link = way.step.link
                place = (link.table, link.key, link.column)
                known = best.get(place)
                if known is None or self._facts[_from(known)].rows < self._facts[_from(way)].rows:
                    best[place] = way
        chosen = {way.step for way in best.values()}
        return [way for way in ways if way.step is None or way.step in chosen]

    def _known(self, name: str, rows: ibis.Table, until: datetime | None) -> ibis.Table:
        time = self._tables[name].time_column
        if time is None or until is None:
            return rows
        import ibis

        return rows.filter(rows[time].cast("timestamp") <= ibis.literal(until, "timestamp"))

    def _expanded(self, way: Way, examples: int, times: int) -> float:
        """Rows that examples meet along a way, about: each example one entity, the often linked ones more often."""
        if way.column is None:
            return float(times) * self._facts[way.table].rows
        counts = self._data[way.table].group_by(way.column).agg(n=lambda t: t.count())
        found = counts.agg(rows=counts.n.sum(), squares=(counts.n.cast("float64") ** 2).sum())
        sums = found.to_pyarrow().to_pylist()[0]
        each = examples * (sums["squares"] or 0) / max(sums["rows"] or 0, 1)
        # What several examples of one time have in common they meet once.
        return min(each, float(times) * (sums["rows"] or 0))

    # -- the entity's own row

    def _own(self) -> dict[str, tuple[ColumnType, tuple[str, ...]]]:
        found: dict[str, tuple[ColumnType, tuple[str, ...]]] = {}
        for name, kind in self._types[self._entity.table].items():
            if kind in ("integer", "float", "datetime"):
                found[name] = (kind, ())
            elif kind == "category":
                found[name] = (kind, self._frequent(self._entity.table, name, VOCABULARY))
        return found

    # -- rows along a way

    def _source(self, way: Way) -> Source:
        table = self._tables[way.table]
        types = self._types[way.table]
        facts = self._facts[way.table]
        near = not way.shared
        numbers = [
            Measured(name, nullable=facts.columns[name].nulls > 0)
            for name, kind in types.items()
            if kind in ("integer", "float") and name != table.time_column
        ]
        categories = [
            (Measured(name), self._frequent(way.table, name, TOP_CATEGORIES))
            for name, kind in types.items()
            if kind == "category" or (kind == "integer" and self._distinct(way.table, name) <= MAX_CODES)
        ]
        siblings: list[Measured] = []
        if near:
            siblings = [
                Measured(measured.name, among=key.column)
                for key in table.foreign_keys
                if key.column != way.column and self._has_siblings(table, key.column)
                for measured in numbers
            ]
            numbers += self._of_parents(table, way)
        return Source(
            way=way,
            timed=table.time_column is not None,
            windows=self._windows(table, way.column) if way.column is not None else _SEASONS,
            numbers=(*numbers, *siblings),
            categories=tuple((measured, top) for measured, top in categories if top),
            times=tuple(name for name, kind in types.items() if kind == "datetime" and name != table.time_column),
        )

    def _of_parents(self, table: Table, way: Way) -> list[Measured]:
        """Numbers of the rows that a way's rows link to."""
        return [
            Measured(name, parent=key.column)
            for key in table.foreign_keys
            if key.column != way.column
            for name, kind in self._types[key.table].items()
            if kind in ("integer", "float")
        ]

    def _frequent(self, table: str, column: str, most: int) -> tuple[str, ...]:
        rows = self._data[table]
        text = rows.select(value=rows[column].cast("string")).filter(lambda t: t.value.notnull())
        counts = text.group_by("value").agg(n=lambda t: t.count())
        found = counts.order_by([counts.n.desc(), counts.value]).limit(most).to_pyarrow()["value"].to_pylist()
        return tuple(found)

    def _distinct(self, table: str, column: str) -> int:
        return int(self._data[table][column].nunique().to_pyarrow().as_py() or 0)

    def _has_siblings(self, table: Table, column: str) -> bool:
        """Whether rows share a foreign key at one time, so that they can be read beside each other."""
        rows = self._facts[table.name].rows
        if table.time_column is None or rows > MAX_SIBLING_ROWS:
            return False
        data = self._data[table.name]
        groups = int(data.select(column, table.time_column).distinct().count().to_pyarrow().as_py())
        return rows >= 1.5 * groups

    def _windows(self, table: Table, column: str) -> tuple[int, ...]:
        """Days that hold a few, some and many rows of an entity, about."""
        if table.time_column is None:
            return ()
        data = self._data[table.name]
        rows = data.select(key=data[column], days=data[table.time_column].cast("timestamp").epoch_seconds() / 86400.0)
        spans = rows.group_by("key").agg(n=lambda t: t.count(), span=lambda t: t.days.max() - t.days.min())
        sums = spans.agg(gaps=(spans.n - 1).sum(), span=spans.span.sum(), longest=spans.span.max()).to_pyarrow()
        found = sums.to_pylist()[0]
        if not found["gaps"] or not found["span"]:
            return ()
        return choose_windows(found["span"] / found["gaps"], found["longest"])


def _from(way: Way) -> str:
    return way.step.table if way.step is not None else way.table


def choose_windows(gap: float, longest: float) -> tuple[int, ...]:
    """The days of the ladder nearest to so many rows' time, none twice and none longer than all of it.

    Args:
        gap: days between two rows of an entity.
        longest: days between the first and the last row of one.
    """
    ladder = np.array(LADDER, dtype=float)
    wanted = [int(LADDER[int(np.abs(np.log(ladder / (gap * rows))).argmin())]) for rows in _ROWS_IN_WINDOWS]
    return tuple(days for days in dict.fromkeys(wanted) if days < longest)
