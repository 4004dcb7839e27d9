"""What is known of all links together at one time: what is popular, what goes with what, what is like what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from tuneloop.relational.histories import top_by_row
from tuneloop.relational.link_rows import DAY, Floats, Ints, LinkRows, Rows

Matrix = NDArray[np.float32]
FOLLOWS = 3  # how many links back what comes next is looked at
NEIGHBOURS = 60  # of a target
MAX_NEIGHBOURS = 20_000  # targets that have neighbours: of more the most linked
_BLOCK = 512
_PRIOR = 20.0  # links of everybody that a small count is mixed with


@dataclass(frozen=True)
class Shape:
    """What is chosen once, from what was known at the last training time.

    Attributes:
        short, long: half-lives in days of what an entity's links say of its taste.
        windows: days over which popularity is counted, rising.
        relative: for numbers of the targets, the category beside whose mean they are read, too.
        rank: of the embeddings.
    """

    short: float
    long: float
    windows: tuple[float, ...]
    relative: Mapping[str, str] = field(default_factory=dict)
    rank: int = 32


class Past:
    """All links dated at or before a cut-off.

    Args:
        rows: all links, those after the cut-off too.
        targets: the targets' rows.
        groups: of the sources' rows, columns of categories by the source's code: codes and how many values.
        shape: half-lives and windows.
        cut: microseconds since 1970.

    Attributes:
        counts: (W + 1, T) links of each target in each window, and ever.
        first, last: (T,) days since a target's first and last link; NaN where there is none.
        repeats: (T,) share of a target's sources that were linked to it again.
        gap: (T,) mean days between two links of a source to the target; NaN where there are none.
        follows: (T, T) CSR, cosine of the sources that two targets have in common, the nearest of each.
        factors: (T, D), embeddings.
        alike: by column of groups, (V, T) popularity among sources of each value beside that among all, logarithm.
        shares: by category column of the targets, (W + 1, V) share of each value.
        next: by category column, (V, V) how much likelier a value is after another, logarithm.
        numbers: by name, (T,), the targets' numbers, also relative to those with the same category.
        scales: their deviations.
    """

    def __init__(
        self, rows: LinkRows, targets: Rows, groups: Mapping[str, tuple[Ints, int]], shape: Shape, cut: int
    ) -> None:
        until = rows.until(cut)
        self._sources, self._targets = rows.sources[:until], rows.targets[:until]
        self._ages = (cut - rows.times[:until]) / DAY
        self._order = rows.order[rows.order < until]
        self._size, self._shape = len(targets), shape
        self._there = targets.born <= cut  # later targets change nothing, not even by their number
        self.counts = self._count()
        self.first, self.last = self._firsts_and_lasts()
        self.repeats, self.gap = self._repeats()
        links = self._matrix(len(rows.keys))
        self.follows = self._neighbours(links)
        self.factors = _embed(links, shape.rank)
        self.alike = {name: self._popular_among(codes, size) for name, (codes, size) in groups.items()}
        self.shares, self.next = {}, {}
        for name, (codes, values) in targets.categories.items():
            self.shares[name] = self._value_shares(codes, len(values))
            self.next[name] = self._transitions(codes, len(values))
        self.numbers = _numbers(targets, shape, self._there)
        self.scales = {name: _deviation(values[self._there]) for name, values in self.numbers.items()}

    def _count(self) -> Matrix:
        found = [
            np.bincount(self._targets[self._ages <= days], minlength=self._size)
            for days in (*self._shape.windows, np.inf)
        ]
        return np.asarray(found, np.float32)

    def _firsts_and_lasts(self) -> tuple[Floats, Floats]:
        first, last = np.full(self._size, -np.inf), np.full(self._size, np.inf)
        np.maximum.at(first, self._targets, self._ages)
        np.minimum.at(last, self._targets, self._ages)
        return np.where(np.isfinite(first), first, np.nan), np.where(np.isfinite(last), last, np.nan)

    def _repeats(self) -> tuple[Floats, Floats]:
        pairs = self._sources.astype(np.int64) * self._size + self._targets
        order = np.argsort(pairs, kind="stable")
        pairs, ages = pairs[order], self._ages[order]
        again = pairs[1:] == pairs[:-1]
        again &= ages[:-1] > ages[1:]  # two rows of one time are one occasion
        targets = pairs[1:][again] % self._size
        gaps = np.bincount(targets, ages[:-1][again] - ages[1:][again], self._size)
        times = np.bincount(targets, minlength=self._size)
        linked = np.bincount(np.unique(pairs) % self._size, minlength=self._size)
        back = np.bincount(np.unique(pairs[1:][again]) % self._size, minlength=self._size)
        with np.errstate(invalid="ignore", divide="ignore"):
            return back / linked, gaps / times

    def _matrix(self, sources: int) -> Any:
        """Links by source and target, recent ones counting most, (S, T) CSR."""
        weights = np.exp2(-self._ages / (4 * self._shape.long)).astype(np.float32)
        found = sparse.csr_matrix((weights, (self._sources, self._targets)), (sources, self._size))
        found.data = np.sqrt(found.data)  # the tenth link to the same target says less than the first
        return found

    def _neighbours(self, links: Any) -> Any:
        norms = np.sqrt(np.asarray(links.multiply(links).sum(0)).ravel())
        linked = np.flatnonzero(norms)
        if len(linked) > MAX_NEIGHBOURS:
            linked = np.sort(linked[np.argsort(-norms[linked], kind="stable")[:MAX_NEIGHBOURS]])
        scaled = (links[:, linked] @ sparse.diags(1 / norms[linked])).tocsc().astype(np.float32)
        by_target = scaled.T.tocsr()
        rows, columns, values = [], [], []
        for start in range(0, len(linked), _BLOCK):
            near = (by_target[start : start + _BLOCK] @ scaled).toarray()
            own = np.arange(len(near))
            near[own, start + own] = 0
            near[near <= 0] = -np.inf
            at, column = top_by_row(near, NEIGHBOURS)
            rows.append(linked[start + at])
            columns.append(linked[column])
            values.append(near[at, column])
        if not rows:
            return sparse.csr_matrix((self._size, self._size), dtype=np.float32)
        both = np.concatenate(rows), np.concatenate(columns)
        return sparse.csr_matrix((np.concatenate(values), both), (self._size, self._size))

    def _popular_among(self, codes: Ints, size: int) -> Matrix:
        values = codes[self._sources]
        known = values >= 0
        weights = np.exp2(-self._ages[known] / self._shape.long)
        found = sparse.csr_matrix((weights, (values[known], self._targets[known])), (size, self._size)).toarray()
        everybody = (found.sum(0) + 1e-3) / (found.sum() + 1e-3 * self._there.sum())
        mixed = (found + _PRIOR * everybody) / (found.sum(1, keepdims=True) + _PRIOR)
        return np.asarray(np.log(mixed / everybody), np.float32)

    # -- values of the targets' columns

    def _value_shares(self, codes: Ints, size: int) -> Matrix:
        known = np.maximum(codes, 0)
        counts = np.stack([np.bincount(known, each * (codes >= 0), size) for each in self.counts])
        ever = self._smoothed(counts[-1], codes)
        return np.asarray((counts + _PRIOR * ever) / (counts.sum(1, keepdims=True) + _PRIOR), np.float32)

    def _transitions(self, codes: Ints, size: int) -> Matrix:
        values, sources = codes[self._targets[self._order]], self._sources[self._order]
        found = np.zeros((size, size))
        for step in range(1, FOLLOWS + 1):
            good = (sources[step:] == sources[:-step]) & (values[step:] >= 0) & (values[:-step] >= 0)
            pairs = values[:-step][good] * size + values[step:][good]
            found += np.bincount(pairs, minlength=size * size).reshape(size, size)
        anyway = self._smoothed(found.sum(0), codes)
        mixed = (found + _PRIOR * anyway) / (found.sum(1, keepdims=True) + _PRIOR)
        return np.asarray(np.log(mixed / anyway), np.float32)

    def _smoothed(self, counts: NDArray[Any], codes: Ints) -> NDArray[Any]:
        """Shares of values, a little for each that was never linked to; 1 for those that only later targets have."""
        there = np.bincount(codes[self._there & (codes >= 0)], minlength=len(counts)) > 0
        return np.where(there, (counts + 1) / (counts.sum() + there.sum()), 1.0)


def _numbers(targets: Rows, shape: Shape, there: NDArray[np.bool_]) -> dict[str, Floats]:
    """Numbers of the targets, and how many deviations each is from the mean of those of the same category."""
    found = {name: values for name, values in targets.numbers.items() if name not in targets.dates}
    for name, among in shape.relative.items():
        (codes, values), column = targets.categories[among], targets.numbers[name]
        known = there & (codes >= 0) & np.isfinite(column)
        with np.errstate(invalid="ignore", divide="ignore"):
            counts = np.bincount(codes[known], minlength=len(values))
            means = np.bincount(codes[known], column[known], len(values)) / counts
            away = np.where(codes >= 0, column - means[codes], np.nan)
            spread = np.sqrt(np.bincount(codes[known], away[known] ** 2, len(values)) / counts)
            away = away / spread[codes]
        found[f"{name} relative to the same {among}"] = np.where(np.isfinite(away), away, np.nan)
    return found


def _deviation(values: Floats) -> float:
    known = values[np.isfinite(values)]
    return float(known.std()) if len(known) else 1.0


def _embed(links: Any, rank: int) -> Matrix:
    """Embeddings of the targets: right singular vectors, found at random with power iterations.

    Halko, Martinsson, Tropp, "Finding structure with randomness" (2011), algorithm 4.4.
    Targets without links have none.
    """
    size = links.shape[1]
    linked = np.unique(links.indices)
    rank = min(rank, len(linked), links.shape[0])
    found = np.zeros((size, max(rank, 1)), np.float32)
    if rank < 2:
        return found
    some = links[np.unique(links.nonzero()[0])][:, linked]
    norms = np.sqrt(np.asarray(some.multiply(some).sum(1)).ravel())
    some = sparse.diags(1 / np.maximum(norms, 1e-6)).astype(np.float32) @ some
    start = np.random.default_rng(0).standard_normal((len(linked), rank + 8)).astype(np.float32)
    basis = _orthonormal(some @ start)
    for _ in range(3):
        basis = _orthonormal(some @ _orthonormal(some.T @ basis))
    small = np.asarray((some.T @ basis).T)  # (rank + 8, linked)
    _, turn = np.linalg.eigh(small @ small.T)
    found[linked] = _orthonormal(small.T @ turn[:, ::-1][:, :rank])
    return found


def _orthonormal(columns: Matrix) -> Matrix:
    """The columns made orthonormal by the Cholesky factor of their products: a few large products, nothing else."""
    products = columns.T.astype(np.float64) @ columns
    products += np.eye(len(products)) * (1e-9 * np.trace(products) + 1e-30)
    factor = np.linalg.cholesky(products)
    return np.asarray(np.linalg.solve(factor, columns.T.astype(np.float64)).T, np.float32)
