"""BERT's layers written out, forward and backward, over tokens without padding: what the model's own code computes, in
fewer passes over memory, each core with texts of its own.

On a CPU that is several times as fast to train as the modules are: no padding, no mask, no conversion between bfloat16
and fp32 around each operation, one product for query, key and value, and no thread waits for another within a layer.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers.sentence_transformer.modules import Pooling
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers.activations import GELUActivation

from tuneloop.search.lanes import Lanes
from tuneloop.search.layers import BOTTOM, Depth, find_layers
from tuneloop.search.products import EightBitProduct, PlainProduct, Product, WatchedProduct
from tuneloop.search.tokens import TokenTable, places

# Tokens of one forward pass, at most: the more, the fewer operations there are to begin.
PASS_TOKENS = 4096
# Tokens that are in memory at once when nothing is learnt from them.
PORTION_TOKENS = 32768
ROWS = 64
LANE_ROWS = 128
COLUMNS = 16
TEXTS = 8
MAX_TEXTS = 64
# Attention's scores of a head that are computed at once, about, so that they stay near the core.
SCORES = 2**17
# Tokens of a text, at most, whose scores are all held at once where nothing is learnt.
SHORT = 512
Check = Callable[[], None]


class NotFusible(TypeError):
    """The encoder is not made of BERT's layers."""


@dataclass(frozen=True)
class _Block:
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


@dataclass(frozen=True)
class _Pass:
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
    def blocks(self) -> list[_Block]:
        """What goes through attention together."""
        found = []
        starts = np.cumsum(self.lengths) - self.lengths
        for start, end in _runs(-(-self.lengths // COLUMNS)):
            length = int(-(-self.lengths[start] // COLUMNS)) * COLUMNS
            while start < end:
                texts = min(end - start, MAX_TEXTS, max(SCORES // length**2, 1))
                texts = texts // TEXTS * TEXTS or texts
                found.append(self._block(starts[start : start + texts], self.lengths[start : start + texts], length))
                start += texts
        return found

    def _block(self, starts: NDArray[np.int64], lengths: NDArray[np.int64], length: int) -> _Block:
        texts = len(lengths)
        if (lengths == length).all():
            return _Block(texts, length, slice(int(starts[0]), int(starts[0]) + texts * length))
        column = np.arange(length)
        real = column < lengths[:, None]
        place = np.where(real, starts[:, None] + column, self.tokens.stop - self.tokens.start)
        mask = torch.zeros(texts, 1, 1, length).masked_fill_(torch.from_numpy(~real)[:, None, None], -torch.inf)
        return _Block(texts, length, torch.from_numpy(place.ravel()), mask)


# The hidden states (T, H) of a pass's tokens, one text after the other.
Source = Callable[[_Pass], Tensor]


class FusedEncoder:
    """A text encoder of BERT's layers, as `TokenTable` rows to embeddings.

    Args:
        module: the encoder: a transformer and what comes after it, such as pooling.
        dtype: what the layers compute in; gradients and embeddings are fp32.
        fixed: whether the weights stay as they are, so that they are made ready once.

    Raises:
        NotFusible: the encoder has other layers.
    """

    def __init__(self, module: nn.Module, dtype: torch.dtype, *, fixed: bool = False) -> None:
        transformer, *self._tail = module.children()
        self._dtype = dtype
        try:
            self._embeddings: Any = transformer.model.embeddings  # type: ignore[union-attr]
            self._halves = [half for layer in find_layers(module) for half in _halves(layer)]
        except AttributeError as error:
            raise NotFusible(str(error)) from error
        if not self._halves:
            raise NotFusible("there are no layers")
        self._tail_parameters = [parameter for each in self._tail for parameter in each.parameters()]
        self._ready = {half: half.weights(dtype) for half in self._halves} if fixed else {}

    def encode(
        self,
        tokens: TokenTable,
        rows: NDArray[np.int64],
        side: str,
        *,
        depth: Depth = BOTTOM,
        hidden: Tensor | None = None,
        max_length: int | None = None,
        check: Check = lambda: None,
    ) -> Tensor:
        """Embeddings (B, d) float32 of rows, not yet of unit length; with gradients where enabled.

        Args:
            tokens: the texts.
            rows: which of them.
            side: what they are.
            depth: up to where nothing is trained.
            hidden: the hidden states above these of all tokens of the table, (T, H), when they are known.
            max_length: tokens of a text to read, at most.
            check: called between forward passes without gradients; may raise.
        """
        lengths = np.minimum(tokens.lengths[rows], max_length or np.iinfo(np.int64).max)
        order = np.argsort(-lengths, kind="stable")
        learning = torch.is_grad_enabled()
        if learning:  # each core gets long texts and short ones
            hands = _count(int(lengths.sum()))
            order = np.concatenate([order[hand::hands] for hand in range(hands)])
        found = []
        for part in _split(lengths[order], np.inf if learning else PORTION_TOKENS):
            check()
            chosen = rows[order[part.texts]]
            states: Tensor | None = None
            if hidden is not None:
                source = self._known(hidden, tokens, chosen)
            elif learning and depth == BOTTOM:
                states = self._embed(tokens, chosen, side, part.lengths)
                source = _sliced(states.detach())
            else:
                source = self._below(tokens, chosen, side, depth)
            run = _Run(self, part.lengths, self._halves[depth.halves :], tokens.extras[side], dealt=learning)
            if learning:
                parameters = [each for half in run.halves for each in half.parameters] + self._tail_parameters
                found.append(_Learn.apply(run, source, states, *parameters))  # type: ignore[no-untyped-call]
            else:
                found.append(run.forward(source, learning=False))
        back = torch.from_numpy(np.argsort(order))
        return torch.cat(found)[back] if found else torch.zeros(0, 0)

    def use_eight_bits(self, tokens: TokenTable, rows: NDArray[np.int64], side: str) -> None:
        """Compute most products of a fixed encoder in eight bits from now on, for texts like these."""
        for weights in self._ready.values():
            weights.change(WatchedProduct)
        with torch.no_grad():
            self.encode(tokens, rows, side)
        for weights in self._ready.values():
            weights.change(EightBitProduct)

    def fill(
        self,
        hidden: Tensor,
        tokens: TokenTable,
        rows: NDArray[np.int64],
        side: str,
        *,
        depth: Depth,
        check: Check = lambda: None,
    ) -> None:
        """Write the hidden states at a depth of all tokens of rows to their places in (T, H)."""
        order = np.argsort(-tokens.lengths[rows], kind="stable")
        for part in _split(tokens.lengths[rows[order]], PORTION_TOKENS):
            check()
            chosen = rows[order[part.texts]]
            run = _Run(self, part.lengths, self._halves[: depth.halves], {}, tail=False)
            states = run.forward(self._below(tokens, chosen, side, BOTTOM), learning=False)
            hidden[_places(tokens, chosen, part.lengths)] = states.to(hidden.dtype)

    def _known(self, hidden: Tensor, tokens: TokenTable, rows: NDArray[np.int64]) -> Source:
        """Hidden states that were computed before."""
        return lambda part: hidden[_places(tokens, rows[part.texts], part.lengths)].to(self._dtype)

    def _below(self, tokens: TokenTable, rows: NDArray[np.int64], side: str, depth: Depth) -> Source:
        """The hidden states at a depth, computed pass by pass."""
        halves = self.weights(self._halves[: depth.halves])

        def states(part: _Pass) -> Tensor:
            found = _extend(self._embed(tokens, rows[part.texts], side, part.lengths), part.rows)
            for half in halves:
                found, _ = half.forward(found, part, None)
            return found

        return states

    def _embed(self, tokens: TokenTable, rows: NDArray[np.int64], side: str, lengths: NDArray[np.int64]) -> Tensor:
        """What enters the first layer, (T, H)."""
        features, _ = tokens.batch(rows, side, max_length=int(lengths.max(initial=1)))
        named = {name: features[name] for name in ("input_ids", "token_type_ids") if name in features}
        states: Tensor = self._embeddings(**named)
        return states[features["attention_mask"].bool()].to(self._dtype)

    def weights(self, halves: Sequence[_Half]) -> list[_Weights]:
        """What a pass through some of the layers computes with."""
        return [self._ready.get(half) or half.weights(self._dtype) for half in halves]

    def finish(self, states: Tensor, lengths: NDArray[np.int64], extras: dict[str, Any]) -> Tensor:
        """What comes after the layers: hidden states (T, H) of texts to embeddings (B, d), float32."""
        if self._tail and isinstance(self._tail[0], Pooling):
            texts = torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)]))
            features = {**extras, "token_embeddings": states[None], "cu_seq_lens_q": texts}
        else:
            longest = int(lengths.max(initial=1))
            real = torch.from_numpy(np.arange(longest)[None, :] < lengths[:, None])
            padded = states.new_zeros(len(lengths) * longest, states.shape[1])
            padded = padded.index_copy(0, torch.from_numpy(np.flatnonzero(real.numpy())), states)
            features = {**extras, "token_embeddings": padded.view(*real.shape, -1), "attention_mask": real.long()}
        for module in self._tail:
            features = module(features)
        embeddings: Tensor = features["sentence_embedding"]
        return embeddings


class _Run:
    """Some layers over some texts, forward and, if asked for, backward: each core has texts of its own."""

    def __init__(
        self,
        encoder: FusedEncoder,
        lengths: NDArray[np.int64],
        halves: Sequence[_Half],
        extras: dict[str, Any],
        *,
        tail: bool = True,
        dealt: bool = False,
    ) -> None:
        self.halves = halves
        self._encoder = encoder
        self._extras = extras
        self._tail = tail
        self._weights = encoder.weights(halves)
        self._lanes = _lanes(torch.get_num_threads())
        count = _count(int(lengths.sum()))
        if dealt:
            self._passes = list(_cut(lengths, [len(range(hand, len(lengths), count)) for hand in range(count)]))
        else:
            self._passes = list(_split(lengths, max(lengths.sum() / count, 1.0)))
        self._learning: list[_Lane] = []

    def forward(self, source: Source, *, learning: bool) -> Tensor:
        """Hidden states (T, H) to embeddings (B, d), or without a tail to hidden states (T, H)."""
        if not learning:
            return torch.cat(list(self._lanes.map(lambda part: self._forward(source, part), self._passes)))
        # The same passes on the same core each time: sums of the same numbers in the same order.
        count = min(self._lanes.count, len(self._passes))
        self._learning = [_Lane(range(first, len(self._passes), count), self._passes) for first in range(count)]
        found: list[Tensor] = [torch.empty(0)] * len(self._passes)

        def work(lane: _Lane) -> None:
            for weights in self._weights:
                lane.kept.append([])
                lane.room.append(weights.room(lane.rows, lane.filled))
            for place, part, rows in lane:
                found[place] = self._forward(source, part, lane, rows)

        list(self._lanes.map(work, self._learning))
        return torch.cat(found)

    def _forward(self, source: Source, part: _Pass, lane: _Lane | None = None, rows: slice = slice(0)) -> Tensor:
        with torch.no_grad():  # which is a matter of the thread
            states = _extend(source(part), part.rows)
            for place, weights in enumerate(self._weights):
                room = None if lane is None else lane.room[place][rows]
                states, kept = weights.forward(states, part, room)
                if lane is not None:
                    lane.kept[place].append(kept)
        states = states[: part.tokens.stop - part.tokens.start]
        if not self._tail:
            return states
        states = states.float().requires_grad_(lane is not None)
        with torch.set_grad_enabled(lane is not None):
            embeddings = self._encoder.finish(states, part.lengths, self._extras)
        if lane is not None:
            lane.ends.append((states, embeddings))
        return embeddings.detach().float()

    def backward(self, gradient: Tensor, *, states_too: bool) -> tuple[Tensor | None, list[Tensor]]:
        """From the gradient of the embeddings to those of the hidden states, if wanted, and of all parameters."""
        below: list[Tensor] = [torch.empty(0)] * len(self._passes)

        def work(lane: _Lane) -> list[Tensor]:
            states, tail = self._tail_backward(gradient, lane)
            found = []
            left: dict[int, _Left] = {}  # attention shares it with attention
            for place in reversed(range(len(self.halves))):
                found.append(self._half_backward(place, states, lane, left, bool(place) or states_too))
            for (place, part, _), each in zip(lane, states, strict=True):
                below[place] = each[: part.tokens.stop - part.tokens.start]
            return [each for gradients in reversed(found) for each in gradients] + tail

        total: list[Tensor] = []
        for found in self._lanes.map(work, self._learning):
            _add(total, found)
        self._learning = []
        rest = iter(total)
        gradients = [each for half in self.halves for each in half.gradients(list(itertools.islice(rest, 6)))]
        return torch.cat(below) if states_too else None, [*gradients, *rest]

    def _tail_backward(self, gradient: Tensor, lane: _Lane) -> tuple[list[Tensor], list[Tensor]]:
        """What comes after the layers: gradients of each pass's hidden states (rows, H), and of the tail's weights."""
        trained = [each for each in self._encoder._tail_parameters if each.requires_grad]
        below: list[Tensor] = []
        total: list[Tensor] = []
        for (_, part, _), (states, embeddings) in zip(lane, lane.ends, strict=True):
            own = gradient[part.texts].to(embeddings.dtype)
            states_gradient, *found = torch.autograd.grad(embeddings, [states, *trained], own)
            below.append(_extend(states_gradient.to(self._encoder._dtype), part.rows))
            _add(total, list(found))
        return below, total

    def _half_backward(
        self, place: int, states: list[Tensor], lane: _Lane, left: dict[int, _Left], below_too: bool
    ) -> list[Tensor]:
        """Half a layer of a lane: its passes' gradients (rows, H) are replaced by those of its input, if wanted."""
        weights = self._weights[place]
        norms: list[Tensor] = []
        with torch.no_grad():
            if weights.inner not in left:
                left[weights.inner] = _Left(weights, lane.rows, lane.filled)
            for number, (_, part, rows) in enumerate(lane):
                kept, lane.kept[place][number] = lane.kept[place][number], None
                found, norm = weights.backward(states[number], part, kept, left[weights.inner].of(rows), below_too)
                _add(norms, norm)
                if found is not None:
                    states[number] = found
            return weights.gradients(left[weights.inner], lane.room[place], norms)


class _Lane:
    """The passes of one core, and what they keep for the way back.

    Args:
        places: which passes.
        passes: of all.

    Attributes:
        rows, filled: of the passes, one after the other: as many as make an even product, and those of the passes.
        room: of each half layer, what its passes write to together; see `_Weights.room`.
        kept: of each half layer, what each pass keeps.
        ends: of each pass, the hidden states above the layers, and the embeddings.
    """

    def __init__(self, places: range, passes: list[_Pass]) -> None:
        self._passes: list[tuple[int, _Pass, slice]] = []
        rows = 0
        for place in places:
            self._passes.append((place, passes[place], slice(rows, rows + passes[place].rows)))
            rows += passes[place].rows
        self.rows, self.filled = -(-rows // LANE_ROWS) * LANE_ROWS, rows
        self.room: list[Tensor] = []
        self.kept: list[list[Any]] = []
        self.ends: list[tuple[Tensor, Tensor]] = []

    def __iter__(self) -> Iterator[tuple[int, _Pass, slice]]:
        """Which of all passes, the pass, and its rows among those of the lane."""
        return iter(self._passes)


class _Left:
    """What the passes of a lane leave of half a layer on the way back, for the products over all their rows.

    A product over rows wants its left side as columns: of the two the narrower one is turned, pass by pass. A row of
    ones gives the gradient of the bias on the way.

    Args:
        weights: of half a layer.
        rows, filled: of the lane, and how many of them the passes fill.
    """

    def __init__(self, weights: _Weights, rows: int, filled: int) -> None:
        inner, width = weights.enter.weight.shape
        empty = weights.enter.weight.new_empty
        self.inner = empty(rows, inner)
        self.below, self.above = empty(width + 1, rows), empty(width, rows)
        for each in (self.inner, self.below.T, self.above.T):
            each[filled:] = 0
        self.below[-1] = 1

    def of(self, rows: slice) -> SimpleNamespace:
        """What one pass writes to: each (rows, ...)."""
        return SimpleNamespace(inner=self.inner[rows], below=self.below[:-1, rows].T, above=self.above[:, rows].T)


class _Learn(torch.autograd.Function):
    """A run as one operation of PyTorch's: parameters, and the hidden states if they are learnt, to embeddings."""

    @staticmethod
    def forward(context: Any, run: _Run, source: Source, states: Tensor | None, *parameters: Tensor) -> Tensor:
        context.run = run
        return run.forward(source, learning=True)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Any:
        states, gradients = context.run.backward(gradient, states_too=context.needs_input_grad[2])
        found = iter(gradients)
        # A run gives no gradient for what comes after the layers and is not trained.
        tail = 3 + sum(len(half.parameters) for half in context.run.halves)
        wanted = (place < tail or want for place, want in enumerate(context.needs_input_grad[3:], 3))
        return None, None, states, *(next(found) if want else None for want in wanted)


class _Half:
    """Half of one of BERT's layers: its attention, or what comes after it; each with a norm at its end.

    Args:
        products: the linear layers: of queries, keys and values, or the one up; and the one to the output.
        norm: at the end.
        heads, scale: of attention; no heads: the other half.
    """

    def __init__(
        self, products: Sequence[nn.Linear], norm: nn.LayerNorm, *, heads: int = 0, scale: float = 1.0
    ) -> None:
        self.parameters: list[nn.Parameter] = [each for module in [*products, norm] for each in module.parameters()]
        self.epsilon = float(norm.eps)
        self.heads = heads
        self.scale = scale

    def weights(self, dtype: torch.dtype) -> _Weights:
        """What one step computes with."""
        return _Attention(self, dtype) if self.heads else _FeedForward(self, dtype)

    def gradients(self, found: list[Tensor]) -> list[Tensor]:
        """The gradients of `parameters` from those of `_Weights`."""
        if not self.heads:
            return found
        weight, bias, *others = found
        split = [each for pair in zip(weight.chunk(3), bias.chunk(3), strict=True) for each in pair]
        return [split[0] * self.scale, split[1] * self.scale, *split[2:], *others]


def _halves(layer: nn.Module) -> tuple[_Half, _Half]:
    """The two of one of BERT's layers, or of a model that has them under the same names.

    Raises:
        AttributeError: it is another layer.
        NotFusible: it computes something else.
    """
    own: Any = layer
    attention, output = own.attention.self, own.attention.output
    entering = [attention.query, attention.key, attention.value, output.dense]
    following = [own.intermediate.dense, own.output.dense]
    norms = [output.LayerNorm, own.output.LayerNorm]
    plain = all(type(each) is nn.Linear for each in [*entering, *following])
    plain = plain and all(type(each) is nn.LayerNorm for each in norms)
    if not plain or any(each.bias is None for each in [*entering, *following, *norms]):
        raise NotFusible("its layers are not linear layers and norms with biases")
    if not isinstance(own.intermediate.intermediate_act_fn, (GELUActivation, nn.GELU)) or own.is_decoder:
        raise NotFusible("its activation is not GELU, or it is a decoder")
    heads, scale = int(attention.num_attention_heads), float(attention.scaling)
    return _Half(entering, norms[0], heads=heads, scale=scale), _Half(following, norms[1])


class _Weights(ABC):
    """The weights of half a layer in the type to compute in: a product to what is inside, one back, and a norm.

    Attributes:
        enter: (inner, H); of attention queries, keys and values in one, with attention's scale.
        leave: (H, what comes from inside), to which the input is added.
    """

    _even: tuple[str, ...]

    def __init__(self, half: _Half, enter: tuple[Tensor, Tensor], dtype: torch.dtype) -> None:
        leave, leave_bias, weight, bias = (each.detach() for each in half.parameters[-4:])
        self.enter: Product = PlainProduct(*enter, dtype, rows=PASS_TOKENS)
        self.leave: Product = PlainProduct(leave, leave_bias, dtype, rows=PASS_TOKENS)
        self._norm = weight, bias
        self._epsilon = half.epsilon

    def change(self, how: Callable[[Any], Product]) -> None:
        """Take other products for those whose input has about one scale."""
        for name in self._even:
            setattr(self, name, how(getattr(self, name)))

    @property
    def inner(self) -> int:
        """The width inside."""
        return len(self.enter.weight)

    def room(self, rows: int, filled: int) -> Tensor:
        """What the forward passes of a lane write to, zero after so many: what comes from inside."""
        weight = self.leave.weight
        found = weight.new_empty(rows, weight.shape[1])
        found[filled:] = 0
        return found

    def forward(self, states: Tensor, part: _Pass, room: Tensor | None) -> tuple[Tensor, Any]:
        """The output (T, H), and what the way back needs if there is room to keep it."""
        if room is None:
            return self._normed(self.leave(self._through(states, part), states))[0], None
        inside = self._keeping(states, part, room)
        sums = self.leave(room, states)
        above, *moments = self._normed(sums)
        return above, (states, inside, sums, moments)

    def backward(
        self, above: Tensor, part: _Pass, kept: Any, left: SimpleNamespace, below_too: bool
    ) -> tuple[Tensor | None, list[Tensor]]:
        """From the gradient of the output to that of the input, if wanted, and those of the norm's weights.

        What the other weights' gradients are computed from is left in `left`.
        """
        states, inside, sums, moments = kept
        weight, bias = self._norm
        d_sums, *d_norm = torch.ops.aten.native_layer_norm_backward(
            above, sums, sums.shape[1:], *moments, weight, bias, [True, True, True]
        )
        self._back(d_sums @ self.leave.weight, part, inside, left.inner)
        left.below.copy_(states)
        left.above.copy_(d_sums)
        return torch.addmm(d_sums, left.inner, self.enter.weight) if below_too else None, d_norm

    def gradients(self, left: _Left, room: Tensor, norm: list[Tensor]) -> list[Tensor]:
        """Those of the 6 weights, from what the passes of a lane left."""
        enter = left.below @ left.inner
        return [enter[:-1].T, enter[-1], left.above @ room, left.above.sum(1), *norm]

    def _normed(self, sums: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        found: tuple[Tensor, Tensor, Tensor] = torch.native_layer_norm(sums, sums.shape[1:], *self._norm, self._epsilon)
        return found

    @abstractmethod
    def _through(self, states: Tensor, part: _Pass) -> Tensor:
        """The input (T, H) to what comes from inside."""

    @abstractmethod
    def _keeping(self, states: Tensor, part: _Pass, room: Tensor) -> Any:
        """The same, written to `room`; gives what the way back needs."""

    @abstractmethod
    def _back(self, gradient: Tensor, part: _Pass, kept: Any, found: Tensor) -> None:
        """From the gradient of what comes from inside to that of what enters, (T, inner), written to `found`."""


class _FeedForward(_Weights):
    """Up, GELU, and down."""

    _even = ("enter",)  # what comes from GELU is mostly small, and large here and there

    def __init__(self, half: _Half, dtype: torch.dtype) -> None:
        weight, bias = (each.detach() for each in half.parameters[:2])
        super().__init__(half, (weight, bias), dtype)

    def _through(self, states: Tensor, part: _Pass) -> Tensor:
        return self.enter.gelu(states)

    def _keeping(self, states: Tensor, part: _Pass, room: Tensor) -> Tensor:
        up = self.enter(states)
        torch.ops.aten.gelu.out(up, out=room)
        return up

    def _back(self, gradient: Tensor, part: _Pass, kept: Tensor, found: Tensor) -> None:
        torch.ops.aten.gelu_backward.grad_input(gradient, kept, grad_input=found)


class _Attention(_Weights):
    """Queries, keys and values, and what they mix."""

    _even = ("enter", "leave")

    def __init__(self, half: _Half, dtype: torch.dtype) -> None:
        query, query_bias, key, key_bias, value, value_bias = (each.detach() for each in half.parameters[:6])
        weight = torch.cat([query * half.scale, key, value])
        super().__init__(half, (weight, torch.cat([query_bias * half.scale, key_bias, value_bias])), dtype)
        self.heads = half.heads

    def _through(self, states: Tensor, part: _Pass) -> Tensor:
        projected = self.enter(states)
        attended = projected.new_empty(len(projected), projected.shape[1] // 3)
        for block in part.blocks:
            heads = self._heads(projected, block)
            found = self._mixed(heads, block) if block.length <= SHORT else None
            if found is None:
                mask = None if block.mask is None else block.mask.to(heads.dtype)
                query, key, value = heads
                found = scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=1.0)
            _put(attended, block, self._merged(found, block))
        attended[part.tokens.stop - part.tokens.start :] = 0
        return attended

    def _mixed(self, heads: Tensor, block: _Block) -> Tensor | None:
        """Attention's output in a block, (texts * heads, length, width), or nothing where a score is too large.

        The softmax is not taken less its greatest score, and divides what comes out: two passes over the scores.
        """
        query, key, value = heads.reshape(3, block.texts * self.heads, block.length, -1)
        share = self._score(query, key, block).exp_()
        total = share.sum(-1, keepdim=True)
        if not (total.isfinite().all() and total.all()):
            return None
        return torch.bmm(share, value).div_(total)

    def _keeping(self, states: Tensor, part: _Pass, room: Tensor) -> list[Any]:
        projected = self.enter(states)  # by products, as PyTorch's own kernel takes much longer back
        kept = []
        for block in part.blocks:
            heads = self._heads(projected, block)
            query, key, value = heads.reshape(3, block.texts * self.heads, block.length, -1)
            share = self._score(query, key, block).softmax(-1)
            _put(room, block, self._merged(torch.bmm(share, value), block))
            kept.append((query, key, value, share))
        room[part.tokens.stop - part.tokens.start :] = 0
        return kept

    def _back(self, gradient: Tensor, part: _Pass, kept: Any, found: Tensor) -> None:
        for block, (query, key, value, share) in zip(part.blocks, kept, strict=True):
            own = _take(gradient, block).view(block.texts, block.length, self.heads, -1).transpose(1, 2)
            own = own.reshape(block.texts * self.heads, block.length, -1)
            d_share = torch.bmm(own, value.transpose(1, 2))
            d_score = torch.ops.aten._softmax_backward_data(d_share, share, -1, share.dtype)
            parts = (
                torch.bmm(d_score, key),
                torch.bmm(d_score.transpose(1, 2), query),
                torch.bmm(share.transpose(1, 2), own),
            )
            _put(found, block, torch.cat([self._merged(each, block) for each in parts], dim=1))
        found[part.tokens.stop - part.tokens.start :] = 0

    def _score(self, query: Tensor, key: Tensor, block: _Block) -> Tensor:
        """How much each token attends to each other one before the softmax, (texts * heads, length, length)."""
        score = torch.bmm(query, key.transpose(1, 2))
        if block.mask is not None:
            score.view(block.texts, self.heads, block.length, -1).add_(block.mask.to(score.dtype))
        return score

    def _heads(self, projected: Tensor, block: _Block) -> Tensor:
        """Those of queries, keys and values in a block, (3, texts, heads, length, width)."""
        return _take(projected, block).view(block.texts, block.length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)

    def _merged(self, heads: Tensor, block: _Block) -> Tensor:
        """From (texts * heads, length, width) to (texts * length, heads * width)."""
        split = heads.view(block.texts, self.heads, block.length, -1)
        return split.transpose(1, 2).reshape(block.texts * block.length, -1)


def _take(states: Tensor, block: _Block) -> Tensor:
    """The rows of a block, (texts * length, H)."""
    return states[block.place] if isinstance(block.place, slice) else states.index_select(0, block.place)


def _put(states: Tensor, block: _Block, rows: Tensor) -> None:
    """Write the rows of a block back; those that are no token come to the row after the last one."""
    if isinstance(block.place, slice):
        states[block.place] = rows
    else:
        states.index_copy_(0, block.place, rows)


def _extend(states: Tensor, rows: int) -> Tensor:
    """Hidden states (T, H) with zeros after them, (rows, H)."""
    return pad(states, (0, 0, 0, rows - len(states)))


def _add(total: list[Tensor], found: list[Tensor]) -> None:
    """Add up gradients, in fp32 whatever they were computed in."""
    if not total:
        total += [each.float() for each in found]
        return
    for each, more in zip(total, found, strict=True):
        each.add_(more)


def _count(tokens: int) -> int:
    """Forward passes for so many tokens: as many for each core."""
    lanes = _lanes(torch.get_num_threads()).count
    return max(-(-tokens // (PASS_TOKENS * lanes)), 1) * lanes


def _split(lengths: NDArray[np.int64], budget: float) -> Iterator[_Pass]:
    """Texts in groups of about so many tokens, in their order."""
    group = ((np.cumsum(lengths) - lengths / 2) // budget).astype(np.int64)
    return _cut(lengths, [end - start for start, end in _runs(group)])


def _cut(lengths: NDArray[np.int64], counts: Sequence[int]) -> Iterator[_Pass]:
    """Texts in groups of so many, in their order."""
    tokens = np.concatenate([[0], np.cumsum(lengths)])
    edges = [0, *itertools.accumulate(counts)]
    for start, end in itertools.pairwise(edges):
        if end > start:
            yield _Pass(slice(start, end), slice(int(tokens[start]), int(tokens[end])), lengths[start:end])


def _runs(values: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Where runs of equal values begin and end."""
    edges = [0, *(np.flatnonzero(np.diff(values)) + 1).tolist(), len(values)]
    return ((start, end) for start, end in itertools.pairwise(edges) if end > start)


def _sliced(states: Tensor) -> Source:
    return lambda part: states[part.tokens]


def _places(tokens: TokenTable, rows: NDArray[np.int64], lengths: NDArray[np.int64]) -> Tensor:
    """Where in the table the tokens of rows lie, one after the other."""
    return torch.from_numpy(places(tokens.starts, rows, lengths))


@cache
def _lanes(count: int) -> Lanes:
    """The threads of this process."""
    return Lanes(count)
