"""How sure a mean over held-out sessions is: bootstrap confidence intervals. Only numpy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
LEVEL = 0.95
DRAWS = 2000
# What is held of the draws at one time: 2 million weights of 8 bytes.
MAX_WEIGHTS = 1 << 21


@dataclass(frozen=True)
class Interval:
    """A mean, and the bounds of its confidence interval."""

    value: float
    low: float
    high: float

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


def mean_intervals(
    values: Mapping[str, Floats],
    groups: NDArray[np.int64],
    *,
    level: float = LEVEL,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, Interval]:
    """The mean of each series of values with its BCa bootstrap interval, from the same draws for all.

    Sessions of one query are no independent witnesses, so whole groups are drawn, with replacement (bias-corrected
    and accelerated intervals: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 14.3; the
    acceleration by leaving out one group after another).

    Args:
        values: by name, one value for each session, (S,); NaN where a session has none. For paired differences,
            the differences.
        groups: the group of each session, such as its query, (S,).
        level: the share of intervals that hold the true mean.
        draws: how many bootstrap samples.
        seed: of the draws.

    Returns:
        By name; a series whose known values belong to fewer than two groups is left out.
    """
    if not values or not len(groups):
        return {}
    _, group = np.unique(groups, return_inverse=True)
    known = np.stack([~np.isnan(each) for each in values.values()], axis=1)  # (S, M)
    filled = np.where(known, np.stack(list(values.values()), axis=1), 0.0)
    total, count = _by_group(filled, group), _by_group(known.astype(np.float64), group)  # (G, M)
    drawn = [(weights @ total, weights @ count) for weights in _weights(len(total), draws, seed)]
    totals, counts = (np.concatenate(part) for part in zip(*drawn, strict=True))  # (draws, M)
    found = {}
    for at, name in enumerate(values):
        there, some = count[:, at] > 0, counts[:, at] > 0
        if there.sum() < 2:
            continue
        means = totals[some, at] / counts[some, at]
        found[name] = _interval(total[there, at], count[there, at], means, level)
    return found


def _interval(total: Floats, count: Floats, means: Floats, level: float) -> Interval:
    """The BCa interval of `total.sum() / count.sum()` over groups, given that mean in each bootstrap sample."""
    normal = NormalDist()
    value = float(total.sum() / count.sum())
    below = float((means < value).mean() + (means == value).mean() / 2)
    bias = normal.inv_cdf(min(max(below, 0.5 / len(means)), 1 - 0.5 / len(means)))
    without = (total.sum() - total) / (count.sum() - count)
    lean = without.mean() - without
    spread = float((lean**2).sum()) ** 1.5
    acceleration = float((lean**3).sum()) / (6 * spread) if spread > 0 else 0.0

    def share(z: float) -> float:
        return normal.cdf(bias + (bias + z) / (1 - acceleration * (bias + z)))

    z = normal.inv_cdf((1 + level) / 2)
    low, high = np.quantile(means, [share(-z), share(z)])
    return Interval(value, min(float(low), value), max(float(high), value))


def _by_group(values: Floats, group: NDArray[np.int64]) -> Floats:
    """Sums over the sessions of each group: (S, M) to (G, M)."""
    return np.stack([np.bincount(group, weights=column) for column in values.T], axis=1)


def _weights(groups: int, draws: int, seed: int) -> Iterator[Floats]:
    """How often each bootstrap sample holds each group, (some draws, G), until there are enough."""
    rng = np.random.default_rng(seed)
    step = max(1, MAX_WEIGHTS // groups)
    for start in range(0, draws, step):
        rows = min(step, draws - start)
        chosen = rng.integers(groups, size=(rows, groups)) + groups * np.arange(rows)[:, None]
        yield np.bincount(chosen.ravel(), minlength=rows * groups).reshape(rows, groups).astype(np.float64)
