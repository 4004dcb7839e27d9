"""The features of pairs: an example, and a target that it may be linked to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tuneloop.relational.candidates import Guesses, Pairs
from tuneloop.relational.feature_queries import Feature
from tuneloop.relational.histories import Histories
from tuneloop.relational.link_rows import ALWAYS, DAY, Floats, Ints, Rows
from tuneloop.relational.past import Past, Shape
from tuneloop.relational.tastes import NumberTaste, ValueTaste

Codes = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Setting:
    """Examples of one cut-off, and what is known of them.

    Attributes:
        owners: the rows of the sources.
        own: (N,) each example's row of them, -1 for none or one that came later.
        times: (N,) microseconds since 1970.
        cuts: (N,) likewise.
        targets: the rows of the targets.
        links: the name of the table of links.
        names: the names of the sources' and the targets' tables.
    """

    owners: Rows
    own: Ints
    times: Ints
    cuts: Ints
    targets: Rows
    links: str
    names: tuple[str, str]


class PairFeatures:
    """Computes features, column by column.

    Args:
        setting: the examples.
        pairs: of these examples.
        past: all links until the cut-off.
        histories: the examples' own.
        guesses: what they may be linked to.
    """

    def __init__(self, setting: Setting, pairs: Pairs, past: Past, histories: Histories, guesses: Guesses) -> None:
        self._setting, self._pairs, self._past = setting, pairs, past
        self._histories, self._guesses = histories, guesses
        self.columns: list[Feature] = []
        self._values: list[NDArray[np.float32]] = []

    def compute(
        self,
        shape: Shape,
        tastes: Mapping[str, ValueTaste],
        likings: Mapping[str, NumberTaste],
        codes: tuple[Codes, Codes],
        kept: NDArray[np.bool_] | None = None,
    ) -> NDArray[np.float32]:
        """(P, F), NaN where nothing is known.

        Args:
            shape: half-lives and windows.
            tastes: of category columns of the targets.
            likings: of their numbers.
            codes: the values that category columns of the sources and of the targets are coded by.
            kept: (P,) only features of these are wanted, though ranks count all.
        """
        self._scores()
        if kept is not None:
            self._values = [column[kept] for column in self._values]
            self._pairs = Pairs(self._pairs.at[kept], self._pairs.targets[kept])
        self._pair()
        self._example(shape)
        self._target(shape)
        for name, taste in tastes.items():
            self._taste(name, taste)
        for name, liking in likings.items():
            self._liking(name, liking)
        setting = self._setting
        self._own_row(setting.owners, setting.own[self._pairs.at], setting.names[0], codes[0])
        self._own_row(setting.targets, self._pairs.targets, setting.names[1], codes[1])
        values = np.empty((len(self._pairs.at), len(self._values)), np.float32, order="F")
        for number, column in enumerate(self._values):
            values[:, number] = column
        return values

    def _put(self, words: str, table: str, values: Any, codes: Sequence[str] = ()) -> None:
        self.columns.append(Feature(f"{len(self.columns)}|{words}", words, table, tuple(codes)))
        self._values.append(np.asarray(values, np.float32))

    # -- the ways to guess

    def _scores(self) -> None:
        at, targets, guesses = self._pairs.at, self._pairs.targets, self._guesses
        near = np.einsum("pd,pd->p", guesses.vectors[at], self._past.factors[targets])
        scores = {
            "popularity": guesses.popularity[targets],
            "links that others have in common": _at(guesses.follows, at, targets),
            "nearness of embeddings": near,
            "popularity among those alike": guesses.alike(at, targets),
            "nearness to its taste": guesses.liked(at, targets),
            "nearness to its taste, and popularity": guesses.liked(at, targets) + guesses.popularity[targets],
            "own links, recent ones counting most": _at(guesses.recent, at, targets),
        }
        for words, values in scores.items():
            self._put(words, self._setting.links, values)
            self._put(f"rank by {words}", self._setting.links, _ranks(at, values))

    # -- the pair, the example, the target

    def _pair(self) -> None:
        links, size = self._setting.links, len(self._setting.targets)
        key = self._histories.at * size + self._histories.targets
        order = np.argsort(key, kind="stable")  # the links of a pair stay in the order of time
        known, first, count = np.unique(key[order], return_index=True, return_counts=True)
        ages = self._histories.ages[order]
        place = np.searchsorted(known, self._pairs.at * size + self._pairs.targets)
        place = np.minimum(place, max(len(known) - 1, 0))
        if len(known):
            met = known[place] == self._pairs.at * size + self._pairs.targets
            last = np.where(met, ages[first + count - 1][place], np.nan)
            oldest = np.where(met, ages[first][place], np.nan)
            times = np.where(met, count[place], 0)
        else:
            last = oldest = np.full(len(place), np.nan)
            times = np.zeros(len(place))
        with np.errstate(invalid="ignore", divide="ignore"):
            gap = np.where(times > 1, (oldest - last) / (times - 1), np.nan)
            late = last / gap
            usual = last / self._past.gap[self._pairs.targets]
        stale = (self._setting.times - self._setting.cuts)[self._pairs.at] / DAY
        self._put("number of links of the two", links, times)
        self._put("days since the last link of the two", links, last + stale)
        self._put("days since the first link of the two", links, oldest + stale)
        self._put("mean days between links of the two", links, gap)
        self._put("days since the last link of the two over the mean between them", links, late)
        self._put("days until the next link of the two is due", links, gap - last)
        self._put("days since the last link of the two over what is usual for the target", links, usual)

    def _example(self, shape: Shape) -> None:
        at, histories, links = self._pairs.at, self._histories, self._setting.links
        last = np.full(histories.count, np.nan)
        last[histories.at] = histories.ages  # the last of each remains
        kinds = np.unique(histories.at * len(self._setting.targets) + histories.targets) // len(self._setting.targets)
        shown = np.bincount(histories.at, minlength=histories.count)
        with np.errstate(invalid="ignore", divide="ignore"):
            gap = (histories.tenures - last) / (histories.totals - 1)
            distinct = np.bincount(kinds, minlength=histories.count) / shown
        self._put("number of its links", links, histories.totals[at])
        self._put("days since its first link", links, histories.tenures[at])
        self._put("days since its last link", links, last[at])
        self._put("mean days between its links", links, np.where(np.isfinite(gap), gap, np.nan)[at])
        self._put("share of different targets in its links", links, distinct[at])
        for days in shape.windows:
            late = np.bincount(histories.at[histories.ages <= days], minlength=histories.count)
            self._put(f"its links in the last {days:g} days", links, late[at])
        day = self._setting.times.astype("datetime64[us]").astype("datetime64[D]")
        self._put("day of the year", self._setting.names[0], (day - day.astype("datetime64[Y]")).astype(int)[at])
        stale = (self._setting.times - self._setting.cuts) / DAY
        self._put("days since the last that is known", links, stale[at])

    def _target(self, shape: Shape) -> None:
        targets, past, links = self._pairs.targets, self._past, self._setting.links
        for days, counts in zip(shape.windows, past.counts[:-1], strict=True):
            self._put(f"links of the target in the last {days:g} days", links, counts[targets])
        self._put("links of the target", links, past.counts[-1][targets])
        self._put("days since the first link of the target", links, past.first[targets])
        self._put("days since the last link of the target", links, past.last[targets])
        self._put("share of those linked to the target that were again", links, past.repeats[targets])
        self._put("mean days between links to the target", links, past.gap[targets])

    # -- columns

    def _taste(self, name: str, taste: ValueTaste) -> None:
        at, table = self._pairs.at, self._setting.names[1]
        codes = self._setting.targets.categories[name][0][self._pairs.targets]
        missing, value = codes < 0, np.maximum(codes, 0)
        shares = self._past.shares[name]
        for words, values in (
            (f"share of the target's {name} in its links", taste.long),
            (f"share of the target's {name} in its late links", taste.short),
            (f"how well the target's {name} follows its last links", taste.next),
            (f"days since it was linked to the target's {name}", taste.age),
        ):
            self._put(words, table, np.where(missing, np.nan, values[at, value]))
        trend = np.log(shares[1] / shares[-1])
        self._put(f"how popular the target's {name} is of late", table, np.where(missing, np.nan, trend[value]))

    def _liking(self, name: str, liking: NumberTaste) -> None:
        at, table = self._pairs.at, self._setting.names[1]
        value = self._past.numbers[name][self._pairs.targets]
        away = value - liking.mean[at]
        spread = liking.deviation[at] + 0.1 * max(self._past.scales[name], 1e-9)
        self._put(f"{name} of the target less the mean of its links", table, away)
        self._put(f"{name} of the target away from its links", table, np.abs(away) / spread)
        if name not in self._setting.targets.numbers:
            self._put(f"{name} of the target", table, value)

    def _own_row(self, rows: Rows, at: Ints, table: str, codes: Codes) -> None:
        """The columns of a row; those of none are unknown."""
        missing, place = at < 0, np.maximum(at, 0)
        times = self._setting.times[self._pairs.at]
        if not len(rows):
            place, rows = np.zeros_like(at), _nobody(rows)
        for name, values in codes.items():
            coded, found = rows.categories[name]
            known = {value: code for code, value in enumerate(values)}
            recode = np.array([known.get(value, np.nan) for value in found] + [np.nan])
            self._put(name, table, np.where(missing, np.nan, recode[coded[place]]), values)
        for name, column in rows.numbers.items():
            value = times / DAY - column[place] if name in rows.dates else column[place]
            words = f"days since {name}" if name in rows.dates else name
            self._put(words, table, np.where(missing, np.nan, value))
        if rows.timed:
            self._put(
                f"days since the row of {table}", table, np.where(missing, np.nan, (times - rows.born[place]) / DAY)
            )


def _nobody(rows: Rows) -> Rows:
    """One row of nothing, so that the same columns come out where a table is empty."""
    return Rows(
        rows.keys,
        np.full(1, ALWAYS),
        {name: (np.full(1, -1), values) for name, (_, values) in rows.categories.items()},
        {name: np.full(1, np.nan) for name in rows.numbers},
        rows.dates,
        rows.timed,
    )


def _at(matrix: Any, rows: Ints, columns: Ints) -> Floats:
    """Values of a CSR matrix."""
    return np.asarray(matrix[rows, columns]).ravel() if len(rows) else np.zeros(0)


def _ranks(at: Ints, values: NDArray[np.floating[Any]]) -> Ints:
    """The place of each value among those of the same example, from the largest, 0; equal values have one place."""
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    # One number to sort by: examples a step apart, values of one within half a step.
    order = np.argsort(at - (values.astype(float) - low) / max(2 * (high - low), 1e-30), kind="stable")
    ordered, owners = values[order], at[order]
    new = np.ones(len(at), bool)
    new[1:] = (owners[1:] != owners[:-1]) | (ordered[1:] != ordered[:-1])
    begins = np.ones(len(at), bool)
    begins[1:] = owners[1:] != owners[:-1]
    place = np.arange(len(at))
    first = np.maximum.accumulate(np.where(begins, place, 0))
    found = np.empty(len(at), np.int64)
    found[order] = np.maximum.accumulate(np.where(new, place, 0)) - first
    return found
