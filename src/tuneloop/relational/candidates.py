"""What examples may be linked to next: a few hundred targets of all, by several ways to guess."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tuneloop.relational.histories import Histories, top_by_row
from tuneloop.relational.link_rows import Ints, Rows
from tuneloop.relational.past import Matrix, Past, Shape
from tuneloop.relational.tastes import ValueTaste

MAX_POOL = 20_000  # of more targets the most popular are looked at
POPULAR_WINDOW = 1  # which of the shape's windows says what is popular


@dataclass(frozen=True)
class Pairs:
    """Examples and targets that they may be linked to, by example, then target.

    Attributes:
        at: (P,) the example's place.
        targets: (P,) the target's row.
    """

    at: Ints
    targets: Ints


class Guesses:
    """The ways to guess for examples of one cut-off.

    Args:
        past: all links until then.
        histories: the examples' own.
        tastes: what their links say of the targets' columns.
        owners: by column of the examples' own rows, the codes, (N,), -1 for unknown.
        targets: the targets' rows.
        shape: half-lives and windows.
        cut: microseconds since 1970; later targets are not there yet.
    """

    def __init__(
        self,
        past: Past,
        histories: Histories,
        tastes: Mapping[str, ValueTaste],
        owners: Mapping[str, Ints],
        targets: Rows,
        shape: Shape,
        cut: int,
    ) -> None:
        self._past, self._histories, self._tastes = past, histories, tastes
        self._owners, self._targets = owners, targets
        self._there = targets.born <= cut
        self.recent = histories.weights(shape.short, len(targets))
        self.follows = self.recent @ past.follows  # (N, T) CSR
        self.vectors = np.asarray(histories.weights(shape.long, len(targets)) @ past.factors, np.float32)
        self.popularity = popularity(past)

    def choose(self, most: int) -> Pairs:
        """The best of each way to guess, and what an example was linked to before.

        Args:
            most: how many targets each way may name.
        """
        pool = self._pool()
        chosen = [self._repeats()]
        if self._histories.count and len(pool):
            for scores in self._scores(pool):
                rows, columns = top_by_row(scores, most)
                chosen.append(rows * len(self._targets) + pool[columns])
        both = np.unique(np.concatenate(chosen))
        return Pairs(both // len(self._targets), both % len(self._targets))

    def repeats(self) -> Pairs:
        """What each example was linked to before."""
        both = self._repeats()
        return Pairs(both // len(self._targets), both % len(self._targets))

    def _repeats(self) -> Ints:
        there = self._there[self._histories.targets]
        pairs = self._histories.at * len(self._targets) + self._histories.targets
        return np.unique(pairs[there])

    def _pool(self) -> Ints:
        """The targets that are there, of too many the most popular."""
        there = np.flatnonzero(self._there)
        if len(there) <= MAX_POOL:
            return there
        best = np.argsort(-self.popularity[there], kind="stable")[:MAX_POOL]
        return np.sort(there[best])

    def _scores(self, pool: Ints) -> Iterator[Matrix]:
        """Scores by example and target of the pool, (N, P), way by way."""
        popular = self.popularity[pool]
        count = self._histories.count
        yield np.broadcast_to(popular, (count, len(pool)))
        follows = self.follows[:, pool].toarray()
        yield np.where(follows > 0, follows, -np.inf)
        known = np.abs(self.vectors).sum(1) > 0
        near = self.vectors @ self._past.factors[pool].T
        yield np.where(known[:, None], near, -np.inf)
        if self._owners:
            yield popular + self.alike(None, pool)
        if self._tastes:
            yield popular + self.liked(None, pool)

    def alike(self, at: Ints | None, targets: Ints) -> Matrix:
        """Popularity among entities alike: of pairs, (P,), or of all examples and targets, (N, P)."""
        total: Any = np.float32(0)
        for name, codes in self._owners.items():
            table, known = self._past.alike[name], (codes >= 0).astype(np.float32)
            code = np.maximum(codes, 0)
            if at is None:
                total = total + table[:, targets][code] * known[:, None]
            else:
                total = total + table[code[at], targets] * known[at]
        return np.asarray(total, np.float32)

    def liked(self, at: Ints | None, targets: Ints) -> Matrix:
        """How well a target's values fit the taste: of pairs, (P,), or of all examples and targets, (N, P)."""
        total: Any = np.float32(0)
        for name, taste in self._tastes.items():
            codes = self._targets.categories[name][0][targets]
            lifts = (taste.short + taste.long) / 2 + taste.next
            known = np.where(codes >= 0, np.float32(1), np.float32(0))
            value = np.maximum(codes, 0)
            total = total + (lifts[:, value] * known if at is None else lifts[at, value] * known)
        return np.asarray(total, np.float32)


def popularity(past: Past) -> Matrix:
    """(T,) logarithm of the links of late, those of longer ago counting a little."""
    counts = past.counts
    return np.asarray(np.log(counts[POPULAR_WINDOW] + 0.1 * counts[min(POPULAR_WINDOW + 1, len(counts) - 1)] + 0.5))
