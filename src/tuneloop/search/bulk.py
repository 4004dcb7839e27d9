"""Many texts to embeddings as fast as the device allows: no training, one side of the model, little padding."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from torch import Tensor
from torch.nn.functional import normalize

from tuneloop.search.encoder import GROUP_TOKENS, Precision, native_bf16
from tuneloop.search.fused import FusedEncoder
from tuneloop.search.halves import NotFusible
from tuneloop.search.lanes import Lanes
from tuneloop.search.model import encoder_modules
from tuneloop.search.passes import PASS_TOKENS
from tuneloop.search.products import has_eight_bits
from tuneloop.search.tokens import TokenTable, tokenize

Vectors = NDArray[np.float32]
Numbers = Literal["int8", "bf16", "fp32"]
# A fast form must give what the model gives: the least mean cosine of both, on some of the first texts. With numbers of
# eight bits it is not far above, so that they must do a little better on those.
MIN_COSINE = 0.999
MIN_COSINE_EIGHT_BIT = 0.9992
PROBES = 16
# From so many texts on eight bits are worth it, and so many of them show what numbers there are.
MANY = 1024
SEEN = 64
PORTION = 512  # texts that are tokenised at once, while earlier ones are being encoded


@dataclass(frozen=True)
class _Form:
    """A way to compute embeddings.

    Attributes:
        encode: from rows of a table, of similar length, to embeddings (B, d), not yet of unit length.
        tokens: how many to compute with at once.
        numbers: what most of it is computed in.
        min_cosine: to what the model gives, on average.
    """

    encode: Callable[[TokenTable, NDArray[np.int64]], Tensor]
    tokens: int
    numbers: Numbers
    min_cosine: float = MIN_COSINE


class BulkEncoder:
    """Encodes texts of one side with a model that is not trained any more. A context manager, which ends its threads.

    On a CPU that multiplies bfloat16 matrices, and on such a GPU, the weights are bfloat16. On a CPU each core takes
    whole forward passes, since several cores on one small pass mostly wait for each other, and BERT's layers are
    computed without padding. Where that does not give the model's own embeddings (mean cosine below 0.999), a bfloat16
    copy of the model is taken, and where that does not either, the model itself in fp32. With a thousand texts or more
    most products of those layers are of eight-bit numbers, if the processor has them and embeddings stay as near.

    Args:
        model: a sentence-transformers model, in fp32.
        side: `query` or `document`.
        precision: what to compute in; `auto` is bf16 where the device has it, and may be less for many texts.
        threads: forward passes at the same time; by default one a core on a CPU, and one on a GPU.
    """

    def __init__(
        self,
        model: SentenceTransformer,
        *,
        side: str = "document",
        precision: Precision = "auto",
        threads: int | None = None,
    ) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._bf16 = precision == "bf16" or (precision == "auto" and native_bf16(self.device))
        self._eight_bits = self._bf16 and precision == "auto" and self.device.type == "cpu" and has_eight_bits()
        self._model = model.to(self.device).eval()
        self._side = side
        self._form: _Form | None = None
        self._for_many = False
        self._lanes = Lanes(threads or (torch.get_num_threads() if self.device.type == "cpu" else 1))

    @property
    def numbers(self) -> Numbers | None:
        """What most of it was computed in, if anything was."""
        return None if self._form is None else self._form.numbers

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the threads."""
        self._lanes.close()

    def encode(
        self,
        texts: Sequence[str],
        *,
        check: Callable[[], None] = lambda: None,
        told: Callable[[int], None] = lambda _: None,
    ) -> Vectors:
        """Unit-length embeddings (N, d) float32 in the order of the texts; equal texts are encoded once.

        The more texts at once, the better they fit together.

        Args:
            texts: any number.
            check: called often; may raise.
            told: called with the number of distinct texts that were just encoded.
        """
        distinct = list(dict.fromkeys(texts))
        if not distinct:
            return np.zeros((0, self._model.get_embedding_dimension() or 0), np.float32)
        many = self._eight_bits and len(distinct) >= MANY
        if self._form is None or (many and not self._for_many):
            self._form, self._for_many = self._fastest(distinct, many=many), many
        form = self._form
        vectors: Vectors = np.zeros((0, 0), np.float32)
        passes = self._passes(distinct, form.tokens, check)
        for places, part in self._lanes.map(lambda each: (each[0], self._embed(form, *each[1:])), passes):
            check()
            if not len(vectors):
                vectors = np.empty((len(distinct), part.shape[1]), np.float32)
            vectors[places] = part
            told(len(places))
        if len(distinct) == len(texts):
            return vectors
        place = {text: row for row, text in enumerate(distinct)}
        return vectors[[place[text] for text in texts]]

    def _passes(
        self, texts: list[str], tokens: int, check: Callable[[], None]
    ) -> Iterator[tuple[NDArray[np.int64], TokenTable, NDArray[np.int64]]]:
        """Texts of one pass after the other, tokenised only then: which, and their rows of a table."""
        order = np.argsort([-len(text) for text in texts], kind="stable")
        for start in range(0, len(order), PORTION):
            chosen = order[start : start + PORTION]
            table = self._tokens([texts[place] for place in chosen], check)
            for rows in length_groups(table.lengths, tokens):
                yield chosen[rows], table, rows

    def _tokens(self, texts: list[str], check: Callable[[], None] = lambda: None) -> TokenTable:
        return tokenize(self._model, texts, queries=len(texts) if self._side == "query" else 0, check=check)

    def _embed(self, form: _Form, table: TokenTable, rows: NDArray[np.int64]) -> Vectors:
        with torch.inference_mode():
            output = form.encode(table, rows)
            if self._model.truncate_dim is not None:
                output = output[:, : self._model.truncate_dim]
            found: Vectors = normalize(output.float(), dim=1).cpu().numpy()
        return found

    def _fastest(self, texts: list[str], *, many: bool) -> _Form:
        """The first form that gives what the model gives, of some of the texts."""
        table, rows = self._some(texts, PROBES)
        own = _Form(partial(self._forward, self._model), GROUP_TOKENS[self.device.type], "fp32")
        expected = self._embed(own, table, rows)
        makers: list[Callable[[], _Form | None]] = [self._fused, self._copied]
        if many:
            makers.insert(0, partial(self._eight_bit, texts))
        for make in makers:
            try:
                form = make()
                if form and np.sum(self._embed(form, table, rows) * expected, axis=1).mean() >= form.min_cosine:
                    return form
            except (NotFusible, AttributeError, KeyError, RuntimeError, TypeError, ValueError):
                pass
        return own

    def _some(self, texts: list[str], count: int) -> tuple[TokenTable, NDArray[np.int64]]:
        """So many of the texts, tokenised, and their rows."""
        places = np.unique(np.linspace(0, len(texts) - 1, count).astype(np.int64))
        return self._tokens([texts[place] for place in places]), np.arange(len(places))

    def _eight_bit(self, texts: list[str]) -> _Form:
        """BERT's layers written out, most products in eight bits."""
        fused = self._written_out()
        fused.use_eight_bits(*self._some(texts, SEEN), self._side)
        return _Form(partial(fused.encode, side=self._side), PASS_TOKENS, "int8", MIN_COSINE_EIGHT_BIT)

    def _fused(self) -> _Form | None:
        """BERT's layers written out."""
        if self.device.type != "cpu":
            return None
        return _Form(
            partial(self._written_out().encode, side=self._side), PASS_TOKENS, "bf16" if self._bf16 else "fp32"
        )

    def _written_out(self) -> FusedEncoder:
        module = encoder_modules(self._model)[self._side]
        return FusedEncoder(module, torch.bfloat16 if self._bf16 else torch.float32, fixed=True)

    def _copied(self) -> _Form | None:
        """The model's own code with bfloat16 weights."""
        if not self._bf16:
            return None
        model = copy.deepcopy(self._model).bfloat16()
        return _Form(partial(self._forward, model), GROUP_TOKENS[self.device.type], "bf16")

    def _forward(self, model: SentenceTransformer, table: TokenTable, rows: NDArray[np.int64]) -> Tensor:
        features, _ = table.batch(rows, self._side)
        moved = {key: value.to(self.device) if isinstance(value, Tensor) else value for key, value in features.items()}
        output: Tensor = model(moved, task=self._side)["sentence_embedding"]
        return output


def length_groups(lengths: NDArray[np.int64], budget: int) -> Iterator[NDArray[np.int64]]:
    """Rows for one forward pass each, the longest texts first: of about `budget` tokens, and of nearly one length."""
    order = np.argsort(lengths, kind="stable")[::-1]
    start = 0
    while start < len(order):
        longest = max(int(lengths[order[start]]), 1)
        end = min(start + max(budget // longest, 1), len(order))
        # Texts of one length need no mask: stop where the length changes, unless little would be left to do at once.
        same = start + int(np.count_nonzero(lengths[order[start:end]] == lengths[order[start]]))
        if (same - start) * longest * 2 >= budget:
            end = same
        yield order[start:end]
        start = end
