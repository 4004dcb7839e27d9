"""Texts as tokens: each tokenised once, kept without padding, padded again batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from torch import Tensor

from tuneloop.search.model import SIDES, UnsupportedModel, side_prompt

CHUNK = 256


@dataclass(frozen=True)
class TokenTable:
    """N tokenised texts: the tokens `starts[n]:starts[n + 1]` of each feature belong to text n.

    Attributes:
        starts: (N + 1,) int64.
        features: by the tokeniser's names, such as `input_ids`, each (T,) int32.
        queries: the first so many texts are queries, the others documents.
        extras: what else the model wants to be told, for each side.
        padding: the value that fills each feature.
        pad_left: whether padding stands before the text.
        flat: whether the model takes tokens without padding, with `offsets`, as StaticEmbedding does.
    """

    starts: NDArray[np.int64]
    features: dict[str, NDArray[np.int32]]
    queries: int
    extras: dict[str, dict[str, Any]]
    padding: dict[str, int]
    pad_left: bool
    flat: bool

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each text, (N,)."""
        return np.diff(self.starts)

    def batch(
        self, rows: NDArray[np.int64], side: str, *, max_length: int | None = None
    ) -> tuple[dict[str, Any], Tensor]:
        """The features of some texts of one side, and where in the table each of their tokens lies.

        At most `max_length` tokens of each text are taken.

        Returns:
            The features, each (B, L) or flat, and indices (B, L) int64 of tokens; padding has the index 0.
        """
        lengths = np.minimum(self.lengths[rows], max_length or np.iinfo(np.int64).max)
        if self.flat:
            offsets = np.concatenate([[0], np.cumsum(lengths)[:-1]])
            place = places(self.starts, rows, lengths)
            flat = {name: torch.from_numpy(values[place].astype(np.int64)) for name, values in self.features.items()}
            return {**self.extras[side], **flat, "offsets": torch.from_numpy(offsets)}, torch.from_numpy(place)
        longest = int(lengths.max(initial=1))
        column = np.arange(longest)[None, :] - (longest - lengths[:, None] if self.pad_left else 0)
        real = (column >= 0) & (column < lengths[:, None])  # (B, L)
        place = np.where(real, self.starts[rows][:, None] + column, 0)
        padded = {
            name: torch.from_numpy(np.where(real, values[place], self.padding[name]).astype(np.int64))
            for name, values in self.features.items()
        }
        mask = torch.from_numpy(real.astype(np.int64))
        return {**self.extras[side], **padded, "attention_mask": mask}, torch.from_numpy(place)


def places(starts: NDArray[np.int64], rows: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where the first so many tokens of each of some texts lie, one text after the other, (T,)."""
    return np.repeat(starts[rows] - (np.cumsum(lengths) - lengths), lengths) + np.arange(lengths.sum())


def tokenize(
    model: SentenceTransformer, texts: Sequence[str], *, queries: int, check: Callable[[], None] = lambda: None
) -> TokenTable:
    """Tokenise the texts, of which the first `queries` are queries, as the model's `encode_…` methods would.

    Raises:
        UnsupportedModel: the model's first module does not turn texts into tokens.
    """
    pieces: list[tuple[NDArray[np.int64], dict[str, NDArray[np.int32]]]] = []
    lengths = np.zeros(len(texts), np.int64)
    extras: dict[str, dict[str, Any]] = {side: {} for side in SIDES}
    flat = False
    for side, rows in zip(SIDES, (range(queries), range(queries, len(texts))), strict=True):
        prompt = side_prompt(model, side)
        by_length = np.array(sorted(rows, key=lambda row: len(texts[row])), np.int64)
        for start in range(0, len(by_length), CHUNK):
            check()
            chunk = by_length[start : start + CHUNK]
            features = model.preprocess([texts[row] for row in chunk], prompt=prompt, task=side)
            flat = "offsets" in features
            extras[side] = {key: value for key, value in features.items() if not isinstance(value, Tensor)}
            lengths[chunk], values = _without_padding(features)
            pieces.append((chunk, values))
    starts = np.concatenate([[0], np.cumsum(lengths)])
    names = list(pieces[0][1]) if pieces else ["input_ids"]
    columns = {name: np.zeros(starts[-1], np.int32) for name in names}
    while pieces:
        chunk, values = pieces.pop()
        at = places(starts, chunk, lengths[chunk])
        for name in names:
            columns[name][at] = values[name]
    tokenizer = model.tokenizer
    padding = dict.fromkeys(names, 0) | {"input_ids": getattr(tokenizer, "pad_token_id", None) or 0}
    pad_left = getattr(tokenizer, "padding_side", "right") == "left"
    return TokenTable(starts, columns, queries, extras, padding, pad_left, flat)


def _without_padding(features: dict[str, Any]) -> tuple[NDArray[np.int64], dict[str, NDArray[np.int32]]]:
    """The length of each text, and the features of all of them, one after the other."""
    tensors = {name: value.numpy() for name, value in features.items() if isinstance(value, Tensor)}
    if "input_ids" not in tensors or not {"offsets", "attention_mask"} & set(tensors):
        raise UnsupportedModel(
            "the model's first module does not turn texts into tokens (it gave "
            f"{', '.join(sorted(features)) or 'nothing'}): choose a sentence-transformers text model"
        )
    if "offsets" in tensors:
        ids = tensors["input_ids"]
        return np.diff(tensors["offsets"], append=len(ids)), {"input_ids": ids.astype(np.int32)}
    mask = tensors.pop("attention_mask").astype(bool)
    return mask.sum(axis=1), {
        name: value[mask].astype(np.int32) for name, value in tensors.items() if value.shape == mask.shape
    }
