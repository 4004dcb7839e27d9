"""A trained model beside its start model, on held-out sessions: what changed, and how sure that is. Only numpy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tuneloop.search.intervals import LEVEL, Interval, mean_intervals
from tuneloop.search.sessions import Sessions

Floats = NDArray[np.floating]
# Their values for the start model say something; a shift from itself is zero.
RANKING = ("ndcg_at_10", "mrr", "recall_at_10")
MAIN = "ndcg_at_10"
DIGITS = 3


@dataclass(frozen=True)
class Comparison:
    """What held-out sessions say of a model and its start model.

    Attributes:
        sessions: S sessions with R results.
        before, after: the similarity of each result to its query by the start model and by the model, (R,).
        ndcg_before, ndcg_after: nDCG@10 of each session, (S,); NaN for those without a click.
        start: the interval of each ranking metric of the start model, by name.
        end: that of each metric of the model.
        gain: that of the paired difference of each ranking metric.
    """

    sessions: Sessions
    before: Floats
    after: Floats
    ndcg_before: Floats
    ndcg_after: Floats
    start: Mapping[str, Interval]
    end: Mapping[str, Interval]
    gain: Mapping[str, Interval]

    @property
    def searches(self) -> int:
        """How many sessions the ranking metrics are computed from."""
        return int((~np.isnan(self.ndcg_after)).sum())

    @property
    def verdict(self) -> str:
        """The difference in nDCG@10 in words."""
        return verdict(self.gain.get(MAIN), self.searches)

    @property
    def tracked(self) -> dict[str, float]:
        """The bounds of the intervals, and the differences, as metrics of the run."""
        found: dict[str, float] = {}
        for name, interval in self.end.items():
            found |= {f"test_{name}_low": interval.low, f"test_{name}_high": interval.high}
        for name, interval in self.gain.items():
            gain = f"test_{name}_gain"
            found |= {gain: interval.value, f"{gain}_low": interval.low, f"{gain}_high": interval.high}
        return found


def compare(
    sessions: Sessions,
    similarities: tuple[Floats, Floats],
    values: tuple[Mapping[str, Floats], Mapping[str, Floats]],
    *,
    seed: int = 0,
) -> Comparison:
    """Compare a model with its start model; the start model comes first in each pair.

    Args:
        sessions: held-out sessions.
        similarities: of each result to its query, (R,).
        values: of each metric, (S,), NaN where a session has none.
        seed: of the bootstrap, which draws queries with all their sessions.
    """
    before, after = values
    series = {f"end {name}": each for name, each in after.items()}
    series |= {f"start {name}": before[name] for name in RANKING}
    series |= {f"gain {name}": after[name] - before[name] for name in RANKING}
    found = mean_intervals(series, sessions.query, seed=seed)

    def part(kind: str) -> dict[str, Interval]:
        names = {name: f"{kind} {name}" for name in after}
        return {name: found[key] for name, key in names.items() if key in found}

    return Comparison(
        sessions, *similarities, before[MAIN], after[MAIN], start=part("start"), end=part("end"), gain=part("gain")
    )


def verdict(gain: Interval | None, searches: int) -> str:
    """A difference in words: whether it is clear, how large, how sure. It is read as it is rounded."""
    where = f"on {searches} held-out searches"
    if gain is None:
        return f"no clear difference: too few distinct queries for an interval, {where}"
    value, low, high = (round(each, DIGITS) for each in (gain.value, gain.low, gain.high))
    bounds = f"{100 * LEVEL:.0f} % interval {number(low)} to {number(high)}, {where}"
    if low > 0:
        return f"better by {number(value)}, {bounds}"
    if high < 0:
        return f"worse by {number(-value)}, {bounds}"
    return f"no clear difference: {number(value)}, {bounds}"


def number(value: float) -> str:
    """As people read it: rounded, with a minus sign, and no minus before a zero."""
    return f"{round(value, DIGITS) + 0.0:.{DIGITS}f}".replace("-", "−")


@dataclass(frozen=True)
class Result:
    """A result in the order of a model.

    Attributes:
        row: of the item's text.
        rank: by the model, the first at 1.
        other_rank: by the other model.
        position: where it was shown.
        clicked: whether it was clicked.
    """

    row: int
    rank: int
    other_rank: int
    position: int
    clicked: bool


@dataclass(frozen=True)
class Search:
    """A held-out session as both models rank its results; the row of its query's text."""

    query: int
    alike: int  # sessions of this query
    ndcg_before: float
    ndcg_after: float
    before: list[Result]
    after: list[Result]

    @property
    def gain(self) -> float:
        """By how much nDCG@10 grew."""
        return self.ndcg_after - self.ndcg_before


def most_changed(comparison: Comparison, count: int) -> tuple[list[Search], list[Search]]:
    """The sessions whose nDCG@10 gained most and lost most, up to `count` of each, one of each query."""
    gain = np.nan_to_num(comparison.ndcg_after - comparison.ndcg_before)
    order = np.argsort(-gain, kind="stable")
    gained = _distinct(comparison, order[gain[order] > 0], count)
    lost = _distinct(comparison, order[::-1][gain[order[::-1]] < 0], count)
    return gained, lost


def _distinct(comparison: Comparison, order: NDArray[np.int64], count: int) -> list[Search]:
    query = comparison.sessions.query
    _, first = np.unique(query[order], return_index=True)
    return [_search(comparison, int(at)) for at in order[np.sort(first)][:count]]


def _search(comparison: Comparison, at: int) -> Search:
    sessions = comparison.sessions
    part = slice(int(sessions.starts[at]), int(sessions.starts[at + 1]))
    before, after = (np.argsort(-each[part], kind="stable") for each in (comparison.before, comparison.after))
    rank_before, rank_after = np.argsort(before) + 1, np.argsort(after) + 1

    def results(order: NDArray[np.int64], own: NDArray[np.int64], other: NDArray[np.int64]) -> list[Result]:
        return [
            Result(
                int(sessions.result[part][place]),
                int(own[place]),
                int(other[place]),
                int(sessions.position[part][place]),
                bool(sessions.clicked[part][place]),
            )
            for place in order
        ]

    return Search(
        int(sessions.query[at]),
        int((sessions.query == sessions.query[at]).sum()),
        float(comparison.ndcg_before[at]),
        float(comparison.ndcg_after[at]),
        results(before, rank_before, rank_after),
        results(after, rank_after, rank_before),
    )
