"""Which texts go through layers together: the forward passes of one step, and in each the blocks of its attention."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

# Tokens of one forward pass, at most: the more, the fewer operations there are to begin.
PASS_TOKENS = 4096
ROWS = 64
COLUMNS = 16
TEXTS = 8
MAX_TEXTS = 64
# Attention's scores of a head that are computed at once, about, so that they stay near the core.
SCORES = 2**17


@dataclass(frozen=True)
class Block:
    """Texts that go through attention together, each as `length` tokens.

    Attributes:
        texts, length: how many, and of how many tokens each.
        place: their tokens, counted from the first of the pass: a slice, or (texts * length,) int64 with the row after
            the last token for those that a text does not have.
        mask: -inf for what is no token, (texts, 1, 1, length) float32.
    """

    texts: int
    length: int
    place: slice | Tensor
    mask: Tensor | None = None

    def take(self, states: Tensor) -> Tensor:
        """The block's rows, (texts * length, H)."""
        return states[self.place] if isinstance(self.place, slice) else states.index_select(0, self.place)

    def put(self, states: Tensor, rows: Tensor) -> None:
        """Write its rows back; those that are no token come to the row after the last one."""
        if isinstance(self.place, slice):
            states[self.place] = rows
        else:
            states.index_copy_(0, self.place, rows)


@dataclass(frozen=True)
class Pass:
    """Texts of one forward pass: which of the texts, which of their tokens, and their lengths, the longest first.

    Products of a size that was not seen before take a kernel of their own, which costs time and memory to make. So rows
    are made up to a multiple of `ROWS`, lengths to one of `COLUMNS` in attention, and texts are taken by multiples of
    `TEXTS`.
    """

    texts: slice
    tokens: slice
    lengths: NDArray[np.int64]

    @property
    def rows(self) -> int:
        """Rows of hidden states: one for each token, at least one that is none, and as many more as make it even."""
        return -(-int(self.lengths.sum() + 1) // ROWS) * ROWS

    @cached_property
    def blocks(self) -> list[Block]:
        """What goes through attention together."""
        found = []
        starts = np.cumsum(self.lengths) - self.lengths
        for start, end in runs(-(-self.lengths // COLUMNS)):
            length = int(-(-self.lengths[start] // COLUMNS)) * COLUMNS
            while start < end:
                texts = min(end - start, MAX_TEXTS, max(SCORES // length**2, 1))
                texts = texts // TEXTS * TEXTS or texts
                found.append(self._block(starts[start : start + texts], self.lengths[start : start + texts], length))
                start += texts
        return found

    def _block(self, starts: NDArray[np.int64], lengths: NDArray[np.int64], length: int) -> Block:
        texts = len(lengths)
        if (lengths == length).all():
            return Block(texts, length, slice(int(starts[0]), int(starts[0]) + texts * length))
        column = np.arange(length)
        real = column < lengths[:, None]
        place = np.where(real, starts[:, None] + column, self.tokens.stop - self.tokens.start)
        mask = torch.zeros(texts, 1, 1, length).masked_fill_(torch.from_numpy(~real)[:, None, None], -torch.inf)
        return Block(texts, length, torch.from_numpy(place.ravel()), mask)


# The hidden states (T, H) of a pass's tokens, one text after the other.
Source = Callable[[Pass], Tensor]


def extend(states: Tensor, rows: int) -> Tensor:
    """Hidden states (T, H) with zeros after them, (rows, H)."""
    return pad(states, (0, 0, 0, rows - len(states)))


def split(lengths: NDArray[np.int64], budget: float) -> Iterator[Pass]:
    """Texts in groups of about so many tokens, in their order."""
    group = ((np.cumsum(lengths) - lengths / 2) // budget).astype(np.int64)
    return cut(lengths, [end - start for start, end in runs(group)])


def cut(lengths: NDArray[np.int64], counts: Sequence[int]) -> Iterator[Pass]:
    """Texts in groups of so many, in their order."""
    tokens = np.concatenate([[0], np.cumsum(lengths)])
    edges = [0, *itertools.accumulate(counts)]
    for start, end in itertools.pairwise(edges):
        if end > start:
            yield Pass(slice(start, end), slice(int(tokens[start]), int(tokens[end])), lengths[start:end])


def runs(values: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Where runs of equal values begin and end."""
    edges = [0, *(np.flatnonzero(np.diff(values)) + 1).tolist(), len(values)]
    return ((start, end) for start, end in itertools.pairwise(edges) if end > start)
