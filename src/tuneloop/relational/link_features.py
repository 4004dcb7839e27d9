"""From examples of links to pairs with features: what is chosen once, and how it is computed for any tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tuneloop.relational.candidates import MAX_POOL, Guesses, Pairs
from tuneloop.relational.dataset import Dataset
from tuneloop.relational.examples import Examples
from tuneloop.relational.feature_queries import Feature
from tuneloop.relational.histories import Historian
from tuneloop.relational.link_examples import label_pairs
from tuneloop.relational.link_rows import (
    DAY,
    Ints,
    LinkRows,
    LinkTable,
    Rows,
    find_link_table,
    read_links,
    read_rows,
    round_down,
    rounding,
)
from tuneloop.relational.pairs import PairFeatures, Setting
from tuneloop.relational.past import Past, Shape
from tuneloop.relational.plan import VOCABULARY
from tuneloop.relational.schema import ColumnType, LinkTask, Table
from tuneloop.relational.tastes import number_tastes, value_tastes
from tuneloop.relational.values import column_types, look

if TYPE_CHECKING:
    import ibis

    from tuneloop.relational.learner import Watcher

# Of the pairs of so many examples those that are wanted, by which are true.
Thin = Callable[[NDArray[np.bool_], int], NDArray[np.bool_]]
MAX_CUTS = 120  # different cut-offs for which all links are looked at; more are rounded
MAX_CELLS = 20_000_000  # values of a column of the sources × targets
CANDIDATES = 80  # that each way to guess may name
_CELLS = 8_000_000  # examples × targets at once
_EXAMPLES = 500  # at once, at most
_TYPES = ("category", "integer", "float", "datetime")


@dataclass(frozen=True)
class LinkPlan:
    """What is chosen once, from what was known at the last training time; JSON but for its shape.

    Attributes:
        shape: half-lives and windows.
        types: of the columns of the sources' and the targets' tables.
        codes: the values that their categories are coded by.
        step: days that cut-offs are rounded down to where all links are looked at; 0 for not at all.
        most: candidates of each way to guess.
    """

    shape: Shape
    types: tuple[Mapping[str, ColumnType], Mapping[str, ColumnType]]
    codes: tuple[Mapping[str, tuple[str, ...]], Mapping[str, tuple[str, ...]]]
    step: int
    most: int

    def document(self) -> dict[str, Any]:
        """It as JSON values."""
        return asdict(self)

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> LinkPlan:
        """It from what `document` gave."""
        shape = document["shape"]
        codes = [{name: tuple(values) for name, values in each.items()} for each in document["codes"]]
        return cls(
            Shape(**(shape | {"windows": tuple(shape["windows"])})),
            (document["types"][0], document["types"][1]),
            (codes[0], codes[1]),
            document["step"],
            document["most"],
        )


@dataclass(frozen=True)
class Batch:
    """Pairs of some examples.

    Attributes:
        examples: their places among all.
        pairs: whose `at` are places among `examples`.
        values: (P, F) features.
        true: (P,) whether the two were linked; None where that is not known.
        popularity: (P,) of the targets.
        cold: (N,) which examples have no earlier links.
    """

    examples: Ints
    pairs: Pairs
    values: NDArray[np.float32]
    true: NDArray[np.bool_] | None
    popularity: NDArray[np.float32]
    cold: NDArray[np.bool_]


def plan_links(dataset: Dataset, data: Mapping[str, ibis.Table], train: Examples) -> LinkPlan:
    """Choose half-lives, windows and columns."""
    task = dataset.task
    assert isinstance(task, LinkTask)
    found = find_link_table(dataset, data)
    last = train.times.max()
    types, codes = [], []
    for key in (task.source_entity, task.target_entity):
        table = dataset.table(key.table)
        rows = _known(table, data[table.name], last)
        kinds = column_types(table, rows.schema(), look(rows))
        kinds = {name: kind for name, kind in kinds.items() if kind in _TYPES and name != table.time_column}
        types.append(kinds)
        codes.append({name: _frequent(rows, name) for name, kind in kinds.items() if kind == "category"})
    targets = read_rows(
        dataset.table(task.target_entity.table), task.target_entity.key, types[1], data[task.target_entity.table]
    )
    links = read_links(found, targets, data[found.table.name])
    until = links.until(int(last.astype(np.int64)))
    gap = _gap(links, until)
    horizon = task.horizon.total_seconds() / 86400 if task.horizon is not None else gap
    shape = Shape(
        short=3 * gap,
        long=10 * gap,
        windows=tuple(round(horizon * times, 3) for times in (0.25, 1, 3, 12)),
        relative=_relative(targets, int(last.astype(np.int64))),
    )
    step = rounding(train.cuts, MAX_CUTS)
    return LinkPlan(shape, (types[0], types[1]), (codes[0], codes[1]), step, max(CANDIDATES, task.k))


class LinkWorld:
    """All rows that links are predicted from, read once.

    Args:
        dataset: the tables' descriptions and the task.
        data: the tables' rows.
        plan: what is computed of them.
    """

    def __init__(self, dataset: Dataset, data: Mapping[str, ibis.Table], plan: LinkPlan) -> None:
        task = dataset.task
        assert isinstance(task, LinkTask)
        self._plan = plan
        self._repeated = task.task_type == "repeated_link_prediction"
        self._found: LinkTable = find_link_table(dataset, data)
        source, target = task.source_entity, task.target_entity
        self._names = source.table, target.table
        self._owners = read_rows(dataset.table(source.table), source.key, plan.types[0], data[source.table])
        self.targets: Rows = read_rows(dataset.table(target.table), target.key, plan.types[1], data[target.table])
        self._links = read_links(self._found, self.targets, data[self._found.table.name])
        self._historian = Historian(self._links)
        self._linked = self._owners.find(self._links.keys)
        self._groups = [
            name
            for name, (_, values) in self._owners.categories.items()
            if len(values) * len(self.targets) <= MAX_CELLS
        ]
        self.columns: tuple[Feature, ...] = ()

    def batches(
        self, examples: Examples, watcher: Watcher, *, labelled: bool = True, thin: Thin | None = None
    ) -> Iterator[Batch]:
        """Pairs of all examples, cut-off by cut-off.

        Args:
            examples: whom and when.
            watcher: whoever waits.
            labelled: whether to say which pairs are true, where the examples know.
            thin: which of a batch's pairs are wanted, by which are true.
        """
        import pyarrow.compute as pc

        keys = pc.cast(examples.keys, self._links.keys.type)
        found = pc.fill_null(pc.index_in(keys, self._links.keys, skip_nulls=True), -1)
        sources = np.asarray(found.to_numpy(), np.int64)
        own = self._owners.find(examples.keys)
        cuts = examples.cuts.astype("datetime64[us]").astype(np.int64)
        times = examples.times.astype("datetime64[us]").astype(np.int64)
        true = self._true(examples) if labelled and examples.labels is not None else None
        rounded = round_down(cuts, self._plan.step)
        for cut in np.unique(rounded):
            groups = {name: self._group(name, int(cut)) for name in self._groups}
            past = Past(self._links, self.targets, groups, self._plan.shape, int(cut))
            some = np.flatnonzero(rounded == cut)
            size = int(np.clip(_CELLS // max(min(len(self.targets), MAX_POOL), 1), 1, _EXAMPLES))
            for start in range(0, len(some), size):
                watcher.check()
                at = some[start : start + size]
                setting = Setting(
                    self._owners,
                    self._seen(own[at], cuts[at]),
                    times[at],
                    cuts[at],
                    self.targets,
                    self._found.table.name,
                    self._names,
                )
                yield self._batch(at, sources[at], setting, past, int(cut), true, thin)

    def _batch(
        self,
        at: Ints,
        sources: Ints,
        setting: Setting,
        past: Past,
        cut: int,
        true: Ints | None,
        thin: Thin | None,
    ) -> Batch:
        plan = self._plan
        histories = self._historian.read(sources, setting.cuts)
        tastes = value_tastes(histories, past, self.targets, plan.shape)
        likings = number_tastes(histories, past.numbers, plan.shape.long)
        groups = {name: self._own_codes(name, setting.own) for name in self._groups}
        guesses = Guesses(past, histories, tastes, groups, self.targets, plan.shape, cut)
        pairs = guesses.repeats() if self._repeated else guesses.choose(plan.most)
        hits: NDArray[np.bool_] | None = None
        kept: NDArray[np.bool_] | None = None
        if true is not None:
            hits = np.isin(at[pairs.at] * len(self.targets) + pairs.targets, true)
        features = PairFeatures(setting, pairs, past, histories, guesses)
        if thin is not None and hits is not None:
            kept = thin(hits, len(at))
            pairs, hits = Pairs(pairs.at[kept], pairs.targets[kept]), hits[kept]
        values = features.compute(plan.shape, tastes, likings, plan.codes, kept)
        self.columns = tuple(features.columns)
        return Batch(at, pairs, values, hits, guesses.popularity[pairs.targets], histories.totals == 0)

    def _seen(self, own: Ints, cuts: Ints) -> Ints:
        """Rows that were known already."""
        if not len(self._owners):
            return np.full(len(own), -1)
        return np.where(self._owners.born[own] <= cuts, own, -1)

    def _group(self, name: str, cut: int) -> tuple[Ints, int]:
        """The codes of the sources of links, where their rows are known, and how many values there are."""
        own = self._seen(self._linked, np.full(len(self._linked), cut))
        return self._own_codes(name, own), len(self._owners.categories[name][1])

    def _own_codes(self, name: str, own: Ints) -> Ints:
        codes = self._owners.categories[name][0]
        return np.where(own >= 0, codes[own], -1) if len(codes) else np.full(len(own), -1)

    def _true(self, examples: Examples) -> Ints:
        """The links of examples as numbers: the example's place times the number of targets, plus the target."""
        assert examples.labels is not None
        at, keys = label_pairs(examples.labels)
        targets = self.targets.find(keys)
        return np.unique((at * len(self.targets) + targets)[targets >= 0])


def _known(table: Table, rows: ibis.Table, last: np.datetime64) -> ibis.Table:
    if table.time_column is None:
        return rows
    import ibis

    until = ibis.literal(last.astype("datetime64[us]").item(), "timestamp")
    return rows.filter(rows[table.time_column].cast("timestamp") <= until)


def _frequent(rows: ibis.Table, column: str) -> tuple[str, ...]:
    text = rows.select(value=rows[column].cast("string")).filter(lambda t: t.value.notnull())
    counts = text.group_by("value").agg(n=lambda t: t.count())
    return tuple(counts.order_by([counts.n.desc(), counts.value]).limit(VOCABULARY).to_pyarrow()["value"].to_pylist())


def _gap(links: LinkRows, until: int) -> float:
    """Mean days between two times at which a source is linked; 7 where no source ever was twice."""
    order = links.order[links.order < until]
    sources, times = links.sources[order], links.times[order]
    gaps = (times[1:] - times[:-1])[sources[1:] == sources[:-1]]
    gaps = gaps[gaps > 0]  # several at one time are one occasion
    return float(gaps.mean() / DAY) if len(gaps) else 7.0


def _relative(targets: Rows, last: int) -> dict[str, str]:
    """For each number of the targets the category that says most of it, where one says much."""
    there, found = targets.born <= last, {}
    for name, column in targets.numbers.items():
        shares = {among: _explained(column[there], codes[there]) for among, (codes, _) in targets.categories.items()}
        best = max(shares, key=lambda among: shares[among], default=None)
        if best is not None and name not in targets.dates and shares[best] > 0.1:
            found[name] = best
    return found


def _explained(column: NDArray[np.float64], codes: Ints) -> float:
    """The share of the variance of a number that lies between categories, less what chance would give."""
    known = (codes >= 0) & np.isfinite(column)
    column, codes = column[known], np.unique(codes[known], return_inverse=True)[1]
    groups = int(codes.max()) + 1 if len(codes) else 0
    if groups < 2 or len(column) <= groups or not column.var():
        return 0.0
    means = np.bincount(codes, column) / np.bincount(codes)
    within = ((column - means[codes]) ** 2).sum() / (len(column) - groups)
    return float(1 - within / column.var(ddof=1))
