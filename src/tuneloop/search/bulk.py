"""Many texts to embeddings as fast as the device allows: no training, one side of the model, little padding."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn
from torch.nn.functional import normalize
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import eager_mask

from tuneloop.search.encoder import GROUP_TOKENS, Precision, native_bf16
from tuneloop.search.fused import PASS_TOKENS, FusedEncoder, NotFusible
from tuneloop.search.lanes import Lanes
from tuneloop.search.model import encoder_modules
from tuneloop.search.tokens import TokenTable, tokenize

Vectors = NDArray[np.float32]
# Tokens of one forward pass: on a CPU few enough that attention's scores stay near the core.
BULK_TOKENS = {**GROUP_TOKENS, "cpu": 1024}
# The fast form must give what the model gives: the cosine of both, on the first texts that are encoded.
MIN_COSINE = 0.999
PROBES = 16
PORTION = 512  # texts that are tokenised at once, while earlier ones are being encoded
ATTENTION = "tuneloop_bulk"
NOT_PLAIN = ("position_bias", "softcap", "s_aux", "head_mask")
# Attention scores that are worked on at once.
SCORES = 2**21
LOG2_E = 1.4426950408889634
LEAST_SUM = 1e-30  # below, numbers lose digits


@dataclass(frozen=True)
class _Form:
    """A way to compute embeddings.

    Attributes:
        encode: from rows of a table, of similar length, to embeddings (B, d), not yet of unit length.
        tokens: how many to compute with at once.
        bf16: whether it computes in bfloat16.
    """

    encode: Callable[[TokenTable, NDArray[np.int64]], Tensor]
    tokens: int
    bf16: bool


class BulkEncoder:
    """Encodes texts of one side with a model that is not trained any more. A context manager, which ends its threads.

    On a CPU that multiplies bfloat16 matrices, and on such a GPU, the weights are bfloat16. On a CPU BERT's layers are
    computed without padding, and each core takes whole forward passes, since several cores on one small pass mostly
    wait for each other. Where a fast form does not give the model's own embeddings (mean cosine below 0.999), the next
    one is taken, at last the model itself in fp32.

    Args:
        model: a sentence-transformers model, in fp32.
        side: `query` or `document`.
        precision: what to compute in; `auto` is bf16 where the device has it.
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
        self._model = model.to(self.device).eval()
        self._side = side
        self._form: _Form | None = None
        self._lanes = Lanes(threads or (torch.get_num_threads() if self.device.type == "cpu" else 1))

    @property
    def bf16(self) -> bool:
        """Whether embeddings are computed in bfloat16, as far as is known before the first text."""
        return self._bf16 if self._form is None else self._form.bf16

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
        if self._form is None:
            self._form = self._fastest(distinct)
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

    def _fastest(self, texts: list[str]) -> _Form:
        """The first form that gives what the model gives, of some of the texts."""
        some = np.unique(np.linspace(0, len(texts) - 1, PROBES).astype(np.int64))
        table, rows = self._tokens([texts[place] for place in some]), np.arange(len(some))
        own = _Form(partial(self._forward, self._model), BULK_TOKENS[self.device.type], bf16=False)
        expected = self._embed(own, table, rows)
        for make in (self._fused, self._copied):
            try:
                form = make()
                same = form and float(np.mean(np.sum(self._embed(form, table, rows) * expected, axis=1))) >= MIN_COSINE
            except (NotFusible, AttributeError, KeyError, RuntimeError, TypeError, ValueError):
                continue
            if form is not None and same:  # not when it is no number
                return form
        return own

    def _fused(self) -> _Form | None:
        """BERT's layers written out."""
        if self.device.type != "cpu":
            return None
        module = encoder_modules(self._model)[self._side]
        fused = FusedEncoder(module, torch.bfloat16 if self._bf16 else torch.float32)
        return _Form(partial(fused.encode, side=self._side), PASS_TOKENS, self._bf16)

    def _copied(self) -> _Form | None:
        """The model's own code with bfloat16 weights."""
        if not self._bf16:
            return None
        return _Form(partial(self._forward, _fast_copy(self._model)), BULK_TOKENS[self.device.type], bf16=True)

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


def _fast_copy(model: SentenceTransformer) -> SentenceTransformer:
    """A copy with bfloat16 weights; on a CPU they are packed, and attention is one that fits small batches."""
    fast = copy.deepcopy(model).bfloat16()
    if next(fast.parameters()).device.type == "cpu":
        for module in fast.modules():
            if isinstance(module, PreTrainedModel):
                try:
                    module.set_attn_implementation(ATTENTION)
                except ValueError:  # a model with attention of its own
                    module.set_attn_implementation("eager")
                _pack(module)
    return fast


def _pack(module: nn.Module) -> None:
    """Put the weights of linear layers into the order in which the processor reads them, once."""
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear:
                setattr(parent, name, _PackedLinear(child))


class _PackedLinear(nn.Module):
    """A linear layer for inference, as PyTorch's own compiler makes it."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.bias = None if linear.bias is None else linear.bias.detach()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), BULK_TOKENS["cpu"])

    def forward(self, features: Tensor) -> Tensor:
        output: Tensor = torch.ops.mkldnn._linear_pointwise(features, self.weight, self.bias, "none", [], "")
        return output


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """Attention of (B, heads, L, d), a few texts at a time, so that their scores stay in the core's cache.

    The softmax leaves out the search for each row's maximum, which takes longer than all else in it. Where that
    overflows, or next to nothing is left of a row, the usual one is taken.
    """
    if any(more.get(name) is not None for name in NOT_PLAIN):
        raise TypeError("this attention is more than a softmax of products")
    batch, heads, length, width = query.shape
    if heads > key.shape[1]:  # keys and values that heads share
        key, value = (each.repeat_interleave(heads // key.shape[1], 1) for each in (key, value))
    query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
    scale = width**-0.5 if scaling is None else scaling
    output = value.new_empty(batch, length, heads, value.shape[3])
    few = max(SCORES // (heads * length * key.shape[2]), 1)
    for start in range(0, batch, few):
        part = slice(start, start + few)
        rows, columns, values = (each[part].flatten(0, 1) for each in (query, key, value))
        columns = columns.transpose(1, 2)
        bias, beta = query.new_zeros(1, 1, 1), 0.0
        if attention_mask is not None:
            bias, beta = attention_mask[part].expand(-1, heads, length, -1).flatten(0, 1), 1.0
        powers = torch.baddbmm(bias, rows, columns, beta=beta * LOG2_E, alpha=scale * LOG2_E).exp2_()
        sums = powers.sum(-1, keepdim=True)
        if bool(((sums > LEAST_SUM) & (sums < torch.inf)).all()):
            found = torch.bmm(powers, values).div_(sums)
        else:
            found = torch.bmm(torch.baddbmm(bias, rows, columns, beta=beta, alpha=scale).softmax(-1), values)
        output[part] = found.view(-1, heads, length, value.shape[3]).transpose(1, 2)
    return output, None


AttentionInterface.register(ATTENTION, _attention)
AttentionMaskInterface.register(ATTENTION, eager_mask)
