"""The start model, while the encoder that held it is being trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from tuneloop.search.encoder import Encoder


class StartModel:
    """The weights of the start model, kept beside those that are trained.

    Args:
        encoder: holds the start model still, with the layers fixed that will be.
    """

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._weights = encoder.trained_state()

    @contextmanager
    def averaged(self, share: float) -> Iterator[None]:
        """Within this context the encoder's weights are averages with the start model's, whose share is given.

        Such a model keeps more of what the start model could do, on all that it was not trained on (WiSE-FT: Wortsman
        et al., Robust Fine-Tuning of Zero-Shot Models, 2022). Not to be entered between a forward pass and its
        backward pass.
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
