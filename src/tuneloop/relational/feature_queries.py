"""The questions that features are: what a plan says, as Ibis expressions over an engine's tables.

Of an example dated t with the cut-off c (at most t) only rows dated at or before c are seen. Windows end at c;
ages count from t, and from c where several examples have the rows in common.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tuneloop.relational.plan import Measured, Plan, Source
from tuneloop.relational.schema import Table
from tuneloop.relational.ways import Step

if TYPE_CHECKING:
    import ibis

Aggregates = dict[str, Any]
_DAY = 86400.0
_NOISE = 1e-9  # relative: what differences of equal numbers leave


@dataclass(frozen=True)
class Feature:
    """One column of the features.

    Attributes:
        name: the same for the same plan.
        words: what it is: "mean grid in the last 365 days, through results".
        table: where it comes from.
        codes: the texts that its numbers stand for, of a category.
    """

    name: str
    words: str
    table: str
    codes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Query:
    """One question to the engine, and the features that its answer holds.

    Attributes:
        rows: `row`, the number of an example, and a column for each feature, `f0…`; no row where nothing is known.
        features: what the columns are.
        counts: the first so many features are counts: 0 where there is no row.
    """

    rows: ibis.Table
    features: tuple[Feature, ...]
    counts: int = 0


class FeatureQueries:
    """The queries of a plan.

    Args:
        plan: what is computed.
        tables: the tables' descriptions.
        data: their rows, all in one engine.
        history: the labelled examples, `key`, `known` (when the label became known) and `label`, in the same engine.
        keep: makes a table of what several queries begin with, so that it is computed once.
    """

    def __init__(
        self,
        plan: Plan,
        tables: Sequence[Table],
        data: Mapping[str, ibis.Table],
        history: ibis.Table | None = None,
        *,
        keep: Callable[[ibis.Table], ibis.Table] = lambda rows: rows,
    ) -> None:
        self._plan = plan
        self._tables = {table.name: table for table in tables}
        self._data = data
        self._history = history
        self._keep = keep

    def of(self, examples: ibis.Table) -> Iterator[Query]:
        """The queries for examples: `row`, `key`, `time` and `cut` (timestamps; null to see all)."""
        examples = examples.mutate(
            days=examples.time.epoch_seconds() / _DAY,
            cut_days=examples.cut.epoch_seconds() / _DAY,
        )
        yield self._own(examples)
        if self._plan.history is not None and self._history is not None:
            labels = self._history
            rows = labels.select(
                fk=labels.key, when=labels.known, at=labels.known.epoch_seconds() / _DAY, n0=labels.label
            )
            yield from self._along(self._plan.history, examples, rows, [], "among its own labels")
        steps: dict[Step | None, ibis.Table] = {None: examples}
        for source in self._plan.sources:
            step = source.way.step
            if step not in steps:
                assert step is not None
                steps[step] = self._keep(self._last_linked(examples, step))
            rows, strings = self._rows(source)
            yield from self._along(source, self._at(source, steps[step]), rows, strings, source.way.words)

    # -- the entity's own row, and the calendar

    def _own(self, examples: ibis.Table) -> Query:
        table = self._tables[self._plan.entity.table]
        rows = self._data[table.name]
        wanted: Aggregates = {"fk": rows[self._plan.entity.key]}
        if table.time_column is not None:
            wanted["born"] = rows[table.time_column].cast("timestamp")
        for number, (name, (kind, _)) in enumerate(self._plan.own.items()):
            column = rows[name]
            if kind == "datetime":
                wanted[f"v{number}"] = column.cast("timestamp").epoch_seconds() / _DAY
            else:
                wanted[f"v{number}"] = column.cast("string" if kind == "category" else "float64")
        rows = rows.select(**wanted)
        joined = examples.left_join(rows, examples.key == rows.fk)
        found: Aggregates = {
            "month": joined.time.month(),
            "weekday": joined.time.day_of_week.index(),
        }
        found |= {"day_of_year": joined.time.day_of_year(), "stale": joined.days - joined.cut_days}
        known: Any = None
        if table.time_column is not None:
            known = joined.born <= joined.cut
            found["age"] = known.ifelse(joined.days - joined.born.epoch_seconds() / _DAY, None)
        for number, (kind, _) in enumerate(self._plan.own.values()):
            value = joined[f"v{number}"]
            if kind == "datetime":
                value = joined.days - value
            found[f"v{number}"] = value if known is None else known.ifelse(value, None)
        features: list[Feature] = []
        for name, words in (
            ("month", "month"),
            ("weekday", "day of the week"),
            ("day_of_year", "day of the year"),
            ("stale", "days since the last that is known"),
            ("age", f"days since the row of {table.name}"),
        ):
            if name in found:
                features.append(Feature(f"own|{name}", words, table.name))
        for name, (kind, codes) in self._plan.own.items():
            words = f"days since {name}" if kind == "datetime" else name
            features.append(Feature(f"own|{name}", words, table.name, codes))
        columns = {f"f{number}": value for number, value in enumerate(found.values())}
        return Query(joined.select(row=joined.row, **columns), tuple(features))

    # -- along a way

    def _last_linked(self, examples: ibis.Table, step: Step) -> ibis.Table:
        """The examples with the entity that each was last linked to as their key."""
        rows = self._data[step.table]
        time = self._tables[step.table].time_column
        if step.column is None:
            wanted: Aggregates = {"fk": rows[self._plan.entity.key], "other": rows[step.link.column]}
            if time is not None:
                wanted["when"] = rows[time].cast("timestamp")
            joined = _join(examples, rows.select(**wanted), timed=time is not None)
            return joined.select("row", "time", "cut", "days", "cut_days", key=joined.other)
        links = rows.select(
            fk=rows[step.column],
            when=rows[time].cast("timestamp") if time is not None else _never(),
            other=rows[step.link.column],
        ).filter(lambda t: t.other.notnull())
        # Of several at one time the largest, so that the choice is always the same.
        links = links.group_by(["fk", "when"]).agg(other=links.other.max())
        joined = _join(examples, links, timed=time is not None)
        last = joined.group_by("row").agg(
            key=joined.other.argmax(joined.when) if time is not None else joined.other.max()
        )
        return examples.drop("key").join(last, "row")

    def _at(self, source: Source, examples: ibis.Table) -> ibis.Table:
        """The examples as a source's rows meet them: by the entity, or all alike."""
        return examples.mutate(key=0) if source.way.column is None else examples

    def _rows(self, source: Source) -> tuple[ibis.Table, list[str]]:
        """The rows of a way: `fk`, `when`, `at` (days), numbers `n0…` and texts `s0…`, and the names of the texts."""
        table = self._tables[source.way.table]
        rows = self._data[table.name]
        import ibis

        when = rows[table.time_column].cast("timestamp") if table.time_column is not None else _never()
        everybody = source.way.column is None
        wanted: Aggregates = {"fk": ibis.literal(0) if everybody else rows[source.way.column], "when": when}
        parents = dict.fromkeys(measured.parent for measured in source.numbers if measured.parent is not None)
        for number, parent in enumerate(parents):
            wanted[f"p{number}"] = rows[parent]
        for number, measured in enumerate(source.numbers):
            if measured.parent is None:
                wanted[f"n{number}"] = _number(rows[measured.name])
        for number, (measured, _) in enumerate(source.categories):
            wanted[f"s{number}"] = rows[measured.name].cast("string")
        for number, name in enumerate(source.times):
            wanted[f"d{number}"] = rows[name].cast("timestamp").epoch_seconds() / _DAY
        for number, among in enumerate(dict.fromkeys(m.among for m in source.numbers if m.among is not None)):
            wanted[f"g{number}"] = rows[among]
        view = rows.select(**wanted)
        view = self._relative(view, source)
        for number, parent in enumerate(parents):
            view = self._with_parent(view, table, source, parent, number)
        view = view.mutate(at=view.when.epoch_seconds() / _DAY)
        return view, [f"s{number}" for number in range(len(source.categories))]

    def _relative(self, view: ibis.Table, source: Source) -> ibis.Table:
        """Numbers beside those of the rows with the same foreign key at the same time."""
        import ibis

        groups = list(dict.fromkeys(m.among for m in source.numbers if m.among is not None))
        if not groups:
            return view
        changed = {}
        for number, measured in enumerate(source.numbers):
            if measured.among is not None:
                value = view[f"n{number}"]
                siblings = ibis.window(group_by=[f"g{groups.index(measured.among)}", "when"])
                changed[f"n{number}"] = value - value.mean().over(siblings)
        return view.mutate(**changed)

    def _with_parent(self, view: ibis.Table, table: Table, source: Source, parent: str, number: int) -> ibis.Table:
        """Numbers of the row that a row links to, where that one was known already."""
        link = next(key for key in table.foreign_keys if key.column == parent)
        other = self._tables[link.table]
        rows = self._data[link.table]
        columns = {f"n{at}": _number(rows[m.name]) for at, m in enumerate(source.numbers) if m.parent == parent}
        key = f"k{number}"
        columns[key] = rows[link.key]
        both_timed = other.time_column is not None and table.time_column is not None
        if both_timed:
            columns[f"b{number}"] = rows[other.time_column].cast("timestamp")
        rows = rows.select(**columns)
        conditions = [view[f"p{number}"] == rows[key]]
        if both_timed:
            conditions.append(rows[f"b{number}"] <= view.when)
        return view.left_join(rows, conditions)

    def _along(
        self, source: Source, examples: ibis.Table, rows: ibis.Table, strings: list[str], words: str
    ) -> Iterator[Query]:
        joined = _join(_met(source, examples), rows, timed=source.timed)
        wanted = _Wanted(source, words)
        aggregates = wanted.measures(joined)
        yield Query(_grouped(source, examples, joined, aggregates), tuple(wanted.features), wanted.counts)
        own = [at for at, measured in enumerate(source.numbers) if measured.parent is None]
        if source.timed and source.way.column is not None and (own or strings):
            yield self._last(source, examples, rows, own, strings, words)

    def _last(
        self,
        source: Source,
        examples: ibis.Table,
        rows: ibis.Table,
        own: list[int],
        strings: list[str],
        words: str,
    ) -> Query:
        """The last value of each column; of several rows at one time their mean, of texts the largest."""
        merged: Aggregates = {f"n{at}": rows[f"n{at}"].mean() for at in own}
        merged |= {name: rows[name].max() for name in strings}
        at_once = rows.group_by(["fk", "when"]).agg(**merged)
        joined = _join(_met(source, examples), at_once, timed=True)
        aggregates: Aggregates = {}
        features: list[Feature] = []
        table = source.way.table
        for at in own:
            measured = source.numbers[at]
            aggregates[f"f{len(features)}"] = joined[f"n{at}"].argmax(joined.when)
            features.append(Feature(f"{words}|{measured.words}|last", f"last {measured.words}, {words}", table))
        for number, (measured, top) in enumerate(source.categories):
            aggregates[f"f{len(features)}"] = joined[strings[number]].argmax(joined.when)
            features.append(Feature(f"{words}|{measured.words}|last", f"last {measured.words}, {words}", table, top))
        return Query(_grouped(source, examples, joined, aggregates), tuple(features))


class _Wanted:
    """The aggregates of a source's rows, and the features that they are."""

    def __init__(self, source: Source, words: str) -> None:
        self._source = source
        self._words = words
        self.features: list[Feature] = []
        self.counts = 0  # the first so many features are counts: 0 where there is no row
        self._found: Aggregates = {}

    def measures(self, joined: ibis.Table) -> Aggregates:
        """Aggregates by the name of their column, `f0…`."""
        source = self._source
        ages: Any = (joined.cut_days - joined.at) if source.timed else None
        self._add("count", "number of rows", joined.count())
        for days in source.windows:
            self._add(f"count {days}d", f"rows in the last {days} days", (ages <= days).sum())
        self.counts = len(self.features)
        if source.timed:
            self._add("recency", "days since the last row", (joined.days - joined.at).min())
            self._add("tenure", "days since the first row", (joined.days - joined.at).max())
        weights = [(days, (ages * (-np.log(2.0) / days)).exp()) for days in source.windows[:2]]
        for number, measured in enumerate(source.numbers):
            self._number(measured, joined[f"n{number}"], joined, ages, weights)
        for number, (measured, top) in enumerate(source.categories):
            self._category(measured, top, joined[f"s{number}"], weights)
        for number, name in enumerate(source.times):
            self._add(f"{name}|mean age", f"mean days since {name}", (joined.days - joined[f"d{number}"]).mean())
        return self._found

    def _number(self, measured: Measured, value: Any, joined: Any, ages: Any, weights: list[tuple[int, Any]]) -> None:
        name = measured.words
        self._add(f"{name}|mean", f"mean {name}", value.mean())
        for days, weight in weights:
            mean = (value * weight).sum() / value.notnull().ifelse(weight, None).sum()
            self._add(f"{name}|recent {days}d", f"mean {name}, the last {days} days counting most", mean)
        if measured.parent is not None:
            return
        if measured.among is None:
            self._add(f"{name}|min", f"smallest {name}", value.min())
            self._add(f"{name}|max", f"largest {name}", value.max())
            self._add(f"{name}|sum", f"sum of {name}", value.sum())
            for days in self._source.windows:
                self._add(
                    f"{name}|mean {days}d", f"mean {name} in the last {days} days", value.mean(where=ages <= days)
                )
        deviation = value.std(how="pop")
        # Equal numbers leave a deviation that is only noise.
        self._add(
            f"{name}|std", f"deviation of {name}", (deviation > value.abs().max() * _NOISE).ifelse(deviation, 0.0)
        )
        if ages is not None:
            self._trend(name, value, joined)
        if measured.nullable:
            missing = value.isnull().cast("float64")
            self._add(f"{name}|null", f"share of rows without {name}", missing.mean())
            for days, weight in weights:
                mean = (missing * weight).sum() / weight.sum()
                self._add(
                    f"{name}|null recent {days}d",
                    f"share of rows without {name}, the last {days} days counting most",
                    mean,
                )

    def _trend(self, name: str, value: Any, joined: Any) -> None:
        """The slope of a line through the values, a year."""
        days = value.notnull().ifelse(joined.at, None)
        spread = days.var(how="pop")
        slope = value.cov(days, how="pop") / spread * 365.0
        self._add(f"{name}|trend", f"change of {name} in a year", (spread > _NOISE).ifelse(slope, None))

    def _category(self, measured: Measured, top: Sequence[str], value: Any, weights: list[tuple[int, Any]]) -> None:
        name = measured.words
        self._add(f"{name}|distinct", f"different {name}", value.nunique())
        for each in top:
            is_it = (value == each).cast("float64")
            self._add(f"{name}|share {each}", f"share of {name} {each}", is_it.mean())
            for days, weight in weights[:1]:
                mean = (is_it * weight).sum() / value.notnull().ifelse(weight, None).sum()
                self._add(
                    f"{name}|share {each} recent {days}d",
                    f"share of {name} {each}, the last {days} days counting most",
                    mean,
                )

    def _add(self, name: str, words: str, value: Any) -> None:
        self._found[f"f{len(self.features)}"] = value
        self.features.append(Feature(f"{self._words}|{name}", f"{words}, {self._words}", self._source.way.table))


_MEETING = ["key", "cut", "cut_days"]


def _met(source: Source, examples: ibis.Table) -> ibis.Table:
    """What meets the rows: each example, or once what several have in common, ages counting from the cut-off."""
    if not source.way.shared:
        return examples
    return examples.select(*_MEETING).distinct().mutate(days=lambda t: t.cut_days)


def _grouped(source: Source, examples: ibis.Table, joined: Any, aggregates: Aggregates) -> ibis.Table:
    """The aggregates by example: `row` and their columns."""
    if not source.way.shared:
        return joined.group_by("row").agg(**aggregates)
    found = joined.group_by(_MEETING).agg(**aggregates)
    return examples.join(found, _MEETING).select("row", *aggregates)


def _join(examples: ibis.Table, rows: ibis.Table, *, timed: bool) -> Any:
    """Each example with the rows it sees."""
    conditions = [examples.key == rows.fk]
    if timed:
        conditions.append(rows.when <= examples.cut)
    return examples.join(rows, conditions)


def _never() -> Any:
    import ibis

    return ibis.null("timestamp")


def _number(column: Any) -> Any:
    """A column as float64, null for NaN, which engines take for the largest number."""
    return column.cast("float64").nullif(float("nan")) if column.type().is_floating() else column.cast("float64")
