"""The output of the fixed layers, computed once for each distinct text and kept on disk."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tuneloop.search.layers import Depth

MAX_DEPTHS = 4  # as many as a search has to choose from


def on_disk(folder: Path, shape: tuple[int, int], dtype: np.dtype[Any]) -> Tensor:
    """A tensor of zeros in a memory-mapped file without a name: its space is free again once the tensor is gone.

    One without elements needs no file.
    """
    if 0 in shape:
        return torch.from_numpy(np.zeros(shape, dtype))
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        file.truncate(shape[0] * shape[1] * dtype.itemsize)
        return torch.from_numpy(np.memmap(file, dtype=dtype, mode="r+", shape=shape))


class PrefixCache:
    """Hidden states (T, H) bfloat16 of all T tokens of a table, memory-mapped, one file for each depth.

    All runs of an iteration start from the same model and so share them. The files have no name: their space is free
    again once this object or its process is gone, however it ends.

    Args:
        folder: where the files lie.
        max_bytes: space they may take altogether; a depth that does not fit is not cached.
    """

    def __init__(self, folder: Path, *, max_bytes: int) -> None:
        self.folder = folder
        self.max_bytes = max_bytes
        self._depths: dict[Depth, Tensor] = {}

    def get(self, depth: Depth, *, tokens: int, width: int, build: Callable[[Tensor], None]) -> Tensor | None:
        """The hidden states at a depth, which `build` fills in when they are not there yet.

        Of too many, or of more than fit, the one used longest ago makes room. None when even one would not fit.
        """
        size = 2 * tokens * width
        if depth in self._depths:
            self._depths[depth] = self._depths.pop(depth)  # the one used last stands last
            return self._depths[depth]
        while self._depths and (len(self._depths) >= MAX_DEPTHS or self.used + size > self.max_bytes):
            self._depths.pop(next(iter(self._depths)))
        if not 0 < size <= self.max_bytes:
            return None
        hidden = on_disk(self.folder, (tokens, width), np.dtype(np.int16)).view(torch.bfloat16)
        build(hidden)
        self._depths[depth] = hidden
        return hidden

    @property
    def used(self) -> int:
        """Bytes on disk."""
        return sum(2 * hidden.numel() for hidden in self._depths.values())
