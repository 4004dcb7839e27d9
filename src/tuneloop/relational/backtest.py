"""Validation splits of earlier years: settings chosen by several are chosen by less chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tuneloop.relational.examples import Examples

COUNT = 4
ENOUGH = 10_000  # validation examples that tell enough by themselves
LEAST_HELD, LEAST_TRAIN = 50, 200


@dataclass(frozen=True)
class Backtest:
    """A validation split of an earlier time.

    Attributes:
        train: which training examples were known by then: their numbers, rising.
        held: which are predicted, as rising numbers.
        examples: those predicted, with what they may see.
    """

    train: NDArray[np.int64]
    held: NDArray[np.int64]
    examples: Examples


def backtests(train: Examples, validation: Examples, horizon: timedelta | None) -> list[Backtest]:
    """The validation split moved back, by its own length again and again, the latest first.

    None where there is no time, where the validation split is large enough, or no longer ago than training began.

    Args:
        train: the training examples.
        validation: what is moved: its times, and where it sees no row after some time, that time.
        horizon: when a label is known.
    """
    if len(validation) >= ENOUGH or np.isnat(validation.times).any() or np.isnat(train.times).any():
        return []
    first, last = validation.times.min(), validation.times.max()
    steps = np.unique(np.concatenate([train.times, validation.times]))
    span = (last - first) + (np.median(np.diff(steps)).astype("timedelta64[us]") if len(steps) > 1 else 0)
    known = train.times + (np.timedelta64(0, "us") if horizon is None else np.timedelta64(horizon))
    found: list[Backtest] = []
    for number in range(1, COUNT + 1):
        back = number * span
        held = np.flatnonzero((train.times >= first - back) & (train.times <= last - back))
        examples = train.take(held)
        begin = first - back
        if is_frozen(validation):
            cut = validation.cuts.max() - back
            examples, begin = examples.frozen_at(cut), min(cut, begin)
        earlier = np.flatnonzero(known <= begin)
        if len(held) >= LEAST_HELD and len(earlier) >= LEAST_TRAIN:
            found.append(Backtest(earlier, held, examples))
    return found


def is_frozen(examples: Examples) -> bool:
    """Whether some see less than all rows up to their time."""
    return bool((examples.cuts < examples.times).any())


def recent_mean(values: Sequence[float]) -> float:
    """The mean of a figure over splits, the latest first: each counts half as much as the one after it.

    Twenty years ago says less of the next year than last year does. NaN is left out; NaN where nothing else is.
    """
    known = np.isfinite(values)
    if not known.any():
        return float("nan")
    weights = 0.5 ** np.arange(len(values))
    return float(np.average(np.asarray(values)[known], weights=weights[known]))


def varied(labels: NDArray[Any]) -> bool:
    """Whether labels differ, so that predictions of them can be measured: (N,), or each of several, (N, C)."""
    return bool((labels.min(0) != labels.max(0)).all()) if len(labels) else False
