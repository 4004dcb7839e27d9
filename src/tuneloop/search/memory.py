"""What the last steps encoded: a batch holds few texts to tell the clicked ones from."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tuneloop.search.data import Batch, Sampler
from tuneloop.search.losses import among

# Embeddings of each kind.
SIZE = 8192


class Memory:
    """The queries and the items that were encoded last, each as it was then, and how well a batch is told among them.

    Args:
        sampler: where the batches come from.
        size: embeddings of queries, and of items, to hold; the oldest give way.
    """

    def __init__(self, sampler: Sampler, *, size: int = SIZE) -> None:
        self._by_query = sampler.liked
        self._by_item = sampler.liked.T.tocsr()
        self._queries, self._items = (_Last(self._by_query.shape[0], size) for _ in range(2))

    def loss(self, embeddings: Tensor, batch: Batch, *, margin: float, temperature: float, robustness: float) -> Tensor:
        """The softmax of each query among the remembered items, and of each clicked item among the remembered queries.

        What was clicked stands there as it is remembered too: fresh, the model would tell it from the others by its age
        alone. So gradients reach the batch's texts, and nothing is encoded for it (Wang et al., Cross-Batch Memory for
        Embedding Learning, 2020; there with fresh positives, for models that change slowly).

        Args:
            embeddings: of the batch's queries and then its items, (Q + M, d) float32, of unit length.
            batch: its clicks count, once their other sides are remembered.
            margin, temperature, robustness: as in `losses.contrastive`.

        Returns:
            The mean over the sessions, a scalar.
        """
        count = len(batch.queries)
        query, item = batch.click.T
        total = embeddings.new_zeros(())
        for own, rows, liked, memory, pairs in (
            (embeddings[:count], batch.queries, self._by_query, self._items, (query, batch.items[item])),
            (embeddings[count:], batch.items, self._by_item, self._queries, (item, batch.queries[query])),
        ):
            place = memory.place[pairs[1]]
            there = place >= 0
            if not there.any():
                continue
            clicked, click = np.unique(pairs[0][there], return_inverse=True)
            total = total + among(
                own[torch.from_numpy(clicked)] @ memory.embeddings.T,
                liked[rows[clicked]][:, memory.rows].toarray(),
                np.stack([click, place[there]], axis=1),
                batch.click_weight[there],
                margin=margin,
                temperature=temperature,
                robustness=robustness,
            )
        return total / batch.sessions

    def put(self, embeddings: Tensor, batch: Batch) -> None:
        """Remember the batch. Not to be done between a loss and its backward pass."""
        count = len(batch.queries)
        self._queries.put(batch.queries, embeddings[:count].detach())
        self._items.put(batch.items, embeddings[count:].detach())


class _Last:
    """The last embeddings of up to `size` rows.

    Attributes:
        place: where among them each of the rows of the table of texts is, or -1, (N,).
    """

    def __init__(self, rows: int, size: int) -> None:
        self.place = np.full(rows, -1, np.int64)
        self._rows = np.full(min(size, rows), -1, np.int64)
        self._embeddings = torch.empty(0)
        self._filled = self._next = 0

    @property
    def rows(self) -> NDArray[np.int64]:
        """Which rows are there, (K,)."""
        return self._rows[: self._filled]

    @property
    def embeddings(self) -> Tensor:
        """Theirs, (K, d)."""
        return self._embeddings[: self._filled]

    def put(self, rows: NDArray[np.int64], embeddings: Tensor) -> None:
        """Replace those of distinct rows that are there, and add the others in the places of the oldest ones."""
        if not len(self._embeddings):
            self._embeddings = embeddings.new_empty(len(self._rows), embeddings.shape[1])
        new = rows[self.place[rows] < 0][: len(self._rows)]
        places = (self._next + np.arange(len(new))) % len(self._rows)
        self.place[self._rows[places[self._rows[places] >= 0]]] = -1
        self.place[new], self._rows[places] = places, new
        self._next = (self._next + len(new)) % len(self._rows)
        self._filled = min(self._filled + len(new), len(self._rows))
        kept = self.place[rows] >= 0
        self._embeddings[torch.from_numpy(self.place[rows[kept]])] = embeddings[torch.from_numpy(kept)]
