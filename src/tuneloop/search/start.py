"""The start model, while the encoder that held it is being trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tuneloop.search.encoder import Check, Encoder


class StartModel:
    """The weights of the start model, kept beside those that are trained, and the embeddings that they give.

    Neither method is to be used between a forward pass and its backward pass, as they change weights in between.

    Args:
        encoder: holds the start model still, with the layers fixed that will be.
        max_length: tokens of a text that `encode` reads, at most.
    """

    def __init__(self, encoder: Encoder, *, max_length: int | None = None) -> None:
        self._encoder = encoder
        self._max_length = max_length
        self._weights = encoder.trained_state()
        self._embeddings = torch.empty(0)
        self._encoded = np.zeros(len(encoder.tokens), bool)

    @contextmanager
    def averaged(self, share: float) -> Iterator[None]:
        """Within this context the encoder's weights are averages with the start model's, whose share is given.

        Such a model keeps more of what the start model could do, on all that it was not trained on (WiSE-FT: Wortsman
        et al., Robust Fine-Tuning of Zero-Shot Models, 2022).
        """
        if not share:
            yield
            return
        trained = self._encoder.trained_state()
        self._encoder.load_state({name: torch.lerp(each, self._weights[name], share) for name, each in trained.items()})
        try:
            yield
        finally:
            self._encoder.load_state(trained)

    def encode(self, rows: NDArray[np.int64], *, check: Check = lambda: None) -> Tensor:
        """The start model's unit-length embeddings (B, d) float32 of distinct rows, each encoded when first asked for.

        `check` is called between forward passes and may raise.
        """
        new = rows[~self._encoded[rows]]
        if len(new):
            with torch.no_grad(), self.averaged(1.0):
                found = self._encoder.encode(new, max_length=self._max_length, check=check)
            if not len(self._embeddings):
                self._embeddings = found.new_empty(len(self._encoded), found.shape[1])
            self._embeddings[torch.from_numpy(new)] = found
            self._encoded[new] = True
        return self._embeddings[torch.from_numpy(rows)]
