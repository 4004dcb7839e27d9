"""The earlier links of examples, each from the first to the last that it may see."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from tuneloop.relational.graph import ranges
from tuneloop.relational.link_rows import DAY, Floats, Ints, LinkRows

MAX_LINKS = 300  # of an example, the last


@dataclass(frozen=True)
class Histories:
    """The earlier links of examples, one example's after another, in the order of time.

    Attributes:
        count: how many examples there are.
        at: (H,) whose link it is.
        targets: (H,) rows of the targets.
        ages: (H,) days before the example's cut-off.
        totals: (N,) how many links each example has, also those left out for their number.
        tenures: (N,) days since the first of them; NaN where there is none.
    """

    count: int
    at: Ints
    targets: Ints
    ages: Floats
    totals: Ints
    tenures: Floats

    def weights(self, half_life: float, targets: int) -> Any:
        """Links by example and target, (N, T) CSR, a link counting half after so many days."""
        weights = np.exp2(-self.ages / half_life).astype(np.float32)
        return sparse.csr_matrix((weights, (self.at, self.targets)), (self.count, targets))

    def places(self) -> Ints:
        """(H,) how many links of the same example came later."""
        ends = np.cumsum(np.bincount(self.at, minlength=self.count))
        return np.asarray(ends[self.at] - 1 - np.arange(len(self.at)))


class Historian:
    """Finds the earlier links of examples.

    Args:
        rows: all links.
    """

    def __init__(self, rows: LinkRows) -> None:
        self._rows = rows
        # A source and a place as one number, rising along `order`.
        self._steps = rows.sources[rows.order].astype(np.int64) * len(rows.order) + rows.order

    def read(self, sources: Ints, cuts: Ints) -> Histories:
        """The links of sources (codes, -1 for those without links) dated at or before cut-offs (microseconds)."""
        rows = self._rows
        seen = np.searchsorted(rows.times, cuts, side="right")
        known = np.maximum(sources, 0)
        begins = rows.starts[known] if len(rows.keys) else np.zeros(len(sources), np.int64)
        ends = np.searchsorted(self._steps, known * len(rows.order) + seen)
        totals = np.where(sources >= 0, ends - begins, 0)
        firsts = rows.times[rows.order[np.minimum(begins, max(len(rows.order) - 1, 0))]] if len(rows.keys) else cuts
        tenures = np.where(totals > 0, (cuts - firsts) / DAY, np.nan)
        kept = np.minimum(totals, MAX_LINKS)
        at = np.repeat(np.arange(len(sources)), kept)
        places = rows.order[ranges(ends - kept, kept)]
        ages = (cuts[at] - rows.times[places]) / DAY
        return Histories(len(sources), at, rows.targets[places].astype(np.int64), ages, totals, tenures)


def top_by_row(scores: NDArray[np.floating[Any]], most: int) -> tuple[Ints, Ints]:
    """Where the largest finite values of each row stand: rows and columns."""
    most = min(most, scores.shape[1])
    if most == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    columns = np.argpartition(-scores, most - 1, axis=1)[:, :most]
    rows = np.repeat(np.arange(len(scores)), most)
    flat = columns.ravel()
    finite = np.isfinite(scores[rows, flat])
    return rows[finite], flat[finite]
