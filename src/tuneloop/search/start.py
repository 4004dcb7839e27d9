"""What is kept of the start model, while the encoder that held it is being trained."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tuneloop.search.cache import on_disk
from tuneloop.search.encoder import Check, Encoder


class StartModel:
    """The weights of the start model.

    Args:
        encoder: holds the start model still, with the layers fixed that will be.
    """

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._weights = encoder.trained_state()

    def averaged(self, share: float) -> AbstractContextManager[None]:
        """Within this context the encoder's weights are averages with the start model's, whose share is given.

        Such a model keeps more of what the start model could do, on all that it was not trained on (WiSE-FT: Wortsman
        et al., Robust Fine-Tuning of Zero-Shot Models, 2022).
        """
        trained = self._encoder.trained()
        return self._encoder.holding(
            {name: torch.lerp(each.detach(), self._weights[name], share) for name, each in trained.items()}
        )


def embed_by_start_model(
    encoder: Encoder,
    rows: NDArray[np.int64],
    folder: Path,
    *,
    max_length: int | None = None,
    check: Check = lambda: None,
) -> Tensor:
    """What the start model thinks of texts, to distil it: all runs of an iteration can share it.

    Args:
        encoder: holds the start model still.
        rows: of the texts, distinct.
        folder: where the embeddings lie, in a file without a name.
        max_length: tokens of a text to read, at most.
        check: called between forward passes; may raise.

    Returns:
        Unit-length embeddings by row of the table of texts, (N, d) float32 on the CPU; zeros for other rows.
    """
    found = torch.zeros(0)
    for place, part in encoder.portions(rows, max_length=max_length, check=check):
        if not place.start:
            found = on_disk(folder, (len(encoder.tokens), part.shape[1]), np.dtype(np.float32))
        found[torch.from_numpy(rows[place])] = part
    return found
