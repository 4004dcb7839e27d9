"""BERT's layers written out, forward and backward, over tokens without padding: what the model's own code computes, in
fewer passes over memory, each core with texts of its own.

On a CPU that is several times as fast to train as the modules are: no padding, no mask, no conversion between bfloat16
and fp32 around each operation, one product for query, key and value, and no thread waits for another within a layer.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers.sentence_transformer.modules import Pooling
from torch import Tensor, nn
from torch.nn.functional import gelu, linear, pad, scaled_dot_product_attention
from transformers.activations import GELUActivation

from tuneloop.search.lanes import Lanes
from tuneloop.search.layers import find_layers
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
            self._layers = [_Layer(layer) for layer in find_layers(module)]
        except AttributeError as error:
            raise NotFusible(str(error)) from error
        if not self._layers:
            raise NotFusible("there are no layers")
        self._tail_parameters = [parameter for each in self._tail for parameter in each.parameters()]
        self._ready = {layer: layer.weights(dtype) for layer in self._layers} if fixed else {}

    def encode(
        self,
        tokens: TokenTable,
        rows: NDArray[np.int64],
        side: str,
        *,
        depth: int = 0,
        hidden: Tensor | None = None,
        max_length: int | None = None,
        check: Check = lambda: None,
    ) -> Tensor:
        """Embeddings (B, d) float32 of rows, not yet of unit length; with gradients where enabled.

        Args:
            tokens: the texts.
            rows: which of them.
            side: what they are.
            depth: layers that are not trained.
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
            elif learning and not depth:
                states = self._embed(tokens, chosen, side, part.lengths)
                source = _sliced(states.detach())
            else:
                source = self._below(tokens, chosen, side, depth)
            run = _Run(self, part.lengths, self._layers[depth:], tokens.extras[side], dealt=learning)
            if learning:
                parameters = [each for layer in run.layers for each in layer.parameters] + self._tail_parameters
                found.append(_Learn.apply(run, source, states, *parameters))  # type: ignore[no-untyped-call]
            else:
                found.append(run.forward(source, learning=False))
        back = torch.from_numpy(np.argsort(order))
        return torch.cat(found)[back] if found else torch.zeros(0, 0)

    def fill(
        self,
        hidden: Tensor,
        tokens: TokenTable,
        rows: NDArray[np.int64],
        side: str,
        *,
        depth: int,
        check: Check = lambda: None,
    ) -> None:
        """Write the hidden states above the first `depth` layers of all tokens of rows to their places in (T, H)."""
        order = np.argsort(-tokens.lengths[rows], kind="stable")
        for part in _split(tokens.lengths[rows[order]], PORTION_TOKENS):
            check()
            chosen = rows[order[part.texts]]
            run = _Run(self, part.lengths, self._layers[:depth], {}, tail=False)
            states = run.forward(self._below(tokens, chosen, side, 0), learning=False)
            hidden[_places(tokens, chosen, part.lengths)] = states.to(hidden.dtype)

    def _known(self, hidden: Tensor, tokens: TokenTable, rows: NDArray[np.int64]) -> Source:
        """Hidden states that were computed before."""
        return lambda part: hidden[_places(tokens, rows[part.texts], part.lengths)].to(self._dtype)

    def _below(self, tokens: TokenTable, rows: NDArray[np.int64], side: str, depth: int) -> Source:
        """The hidden states above the first `depth` layers, computed pass by pass."""
        layers = self.weights(self._layers[:depth])

        def states(part: _Pass) -> Tensor:
            found = _extend(self._embed(tokens, rows[part.texts], side, part.lengths), part.rows)
            for layer in layers:
                found, _ = layer.forward(found, part, None)
            return found

        return states

    def _embed(self, tokens: TokenTable, rows: NDArray[np.int64], side: str, lengths: NDArray[np.int64]) -> Tensor:
        """What enters the first layer, (T, H)."""
        features, _ = tokens.batch(rows, side, max_length=int(lengths.max(initial=1)))
        named = {name: features[name] for name in ("input_ids", "token_type_ids") if name in features}
        states: Tensor = self._embeddings(**named)
        return states[features["attention_mask"].bool()].to(self._dtype)

    def weights(self, layers: Sequence[_Layer]) -> list[_Weights]:
        """What a pass through some of the layers computes with."""
        return [self._ready.get(layer) or layer.weights(self._dtype) for layer in layers]

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
        layers: Sequence[_Layer],
        extras: dict[str, Any],
        *,
        tail: bool = True,
        dealt: bool = False,
    ) -> None:
        self.layers = layers
        self._encoder = encoder
        self._extras = extras
        self._tail = tail
        self._weights = encoder.weights(layers)
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
            for layer in self._weights:
                lane.kept.append([])
                lane.room.append(layer.room(lane.rows, lane.filled))
            for place, part, rows in lane:
                found[place] = self._forward(source, part, lane, rows)

        list(self._lanes.map(work, self._learning))
        return torch.cat(found)

    def _forward(self, source: Source, part: _Pass, lane: _Lane | None = None, rows: slice = slice(0)) -> Tensor:
        with torch.no_grad():  # which is a matter of the thread
            states = _extend(source(part), part.rows)
            for place, weights in enumerate(self._weights):
                room = None if lane is None else tuple(each[rows] for each in lane.room[place])
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
            left = _Left(self._weights[0], lane.rows, lane.filled) if self._weights else None
            for place in reversed(range(len(self.layers))):
                assert left is not None
                found.append(self._layer_backward(place, states, lane, left, bool(place) or states_too))
            for (place, part, _), each in zip(lane, states, strict=True):
                below[place] = each[: part.tokens.stop - part.tokens.start]
            return [each for gradients in reversed(found) for each in gradients] + tail

        total: list[Tensor] = []
        for found in self._lanes.map(work, self._learning):
            _add(total, found)
        self._learning = []
        layers, tail = total[: 12 * len(self.layers)], total[12 * len(self.layers) :]
        gradients = [
            each
            for place, layer in enumerate(self.layers)
            for each in layer.gradients(layers[12 * place : 12 * place + 12])
        ]
        return torch.cat(below) if states_too else None, gradients + tail

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

    def _layer_backward(
        self, place: int, states: list[Tensor], lane: _Lane, left: _Left, below_too: bool
    ) -> list[Tensor]:
        """One layer of a lane: its passes' gradients (rows, H) are replaced by those of its input, if wanted."""
        weights = self._weights[place]
        norms: list[Tensor] = []
        with torch.no_grad():
            for number, (_, part, rows) in enumerate(lane):
                kept, lane.kept[place][number] = lane.kept[place][number], None
                found, norm = weights.backward(states[number], part, kept, left.of(rows), below_too)
                _add(norms, norm)
                if found is not None:
                    states[number] = found
            return weights.gradients(left, lane.room[place], norms)


class _Lane:
    """The passes of one core, and what they keep for the way back.

    Args:
        places: which passes.
        passes: of all.

    Attributes:
        rows, filled: of the passes, one after the other: as many as make an even product, and those of the passes.
        room: of each layer, what its passes write to together; see `_Weights.room`.
        kept: of each layer, what each pass keeps.
        ends: of each pass, the hidden states above the layers, and the embeddings.
    """

    def __init__(self, places: range, passes: list[_Pass]) -> None:
        self._passes: list[tuple[int, _Pass, slice]] = []
        rows = 0
        for place in places:
            self._passes.append((place, passes[place], slice(rows, rows + passes[place].rows)))
            rows += passes[place].rows
        self.rows, self.filled = -(-rows // LANE_ROWS) * LANE_ROWS, rows
        self.room: list[tuple[Tensor, Tensor]] = []
        self.kept: list[list[Any]] = []
        self.ends: list[tuple[Tensor, Tensor]] = []

    def __iter__(self) -> Iterator[tuple[int, _Pass, slice]]:
        """Which of all passes, the pass, and its rows among those of the lane."""
        return iter(self._passes)


class _Left:
    """What the passes of a lane leave of a layer on the way back, for the products over all their rows.

    A product over rows wants its left side as columns: of the two the narrower one is turned, pass by pass. A row of
    ones gives the gradient of the bias on the way.

    Args:
        weights: of a layer.
        rows, filled: of the lane, and how many of them the passes fill.
    """

    def __init__(self, weights: _Weights, rows: int, filled: int) -> None:
        like = weights.up.weight
        inner, width = like.shape
        self.attention, self.up = like.new_empty(rows, 3 * width), like.new_empty(rows, inner)
        self.states, self.middle = like.new_empty(width + 1, rows), like.new_empty(width + 1, rows)
        self.first, self.second = like.new_empty(width, rows), like.new_empty(width, rows)
        for each in (self.attention, self.up, self.states.T, self.middle.T, self.first.T, self.second.T):
            each[filled:] = 0
        self.states[-1] = self.middle[-1] = 1

    def of(self, rows: slice) -> SimpleNamespace:
        """What one pass writes to: each (rows, ...)."""
        turned = {name: getattr(self, name)[:, rows].T for name in ("states", "middle", "first", "second")}
        turned |= {name: turned[name][:, :-1] for name in ("states", "middle")}
        return SimpleNamespace(attention=self.attention[rows], up=self.up[rows], **turned)


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
        tail = 3 + 16 * len(context.run.layers)
        wanted = (place < tail or want for place, want in enumerate(context.needs_input_grad[3:], 3))
        return None, None, states, *(next(found) if want else None for want in wanted)


class _Layer:
    """One of BERT's layers, or of a model that has them under the same names.

    Raises:
        AttributeError: it is another layer.
        NotFusible: it computes something else.
    """

    def __init__(self, layer: nn.Module) -> None:
        own: Any = layer
        attention, output = own.attention.self, own.attention.output
        products = [
            attention.query,
            attention.key,
            attention.value,
            output.dense,
            own.intermediate.dense,
            own.output.dense,
        ]
        norms = [output.LayerNorm, own.output.LayerNorm]
        plain = all(type(each) is nn.Linear and each.bias is not None for each in products)
        if not plain or not all(type(each) is nn.LayerNorm for each in norms):
            raise NotFusible("its layers are not linear layers and norms with biases")
        if not isinstance(own.intermediate.intermediate_act_fn, (GELUActivation, nn.GELU)) or own.is_decoder:
            raise NotFusible("its activation is not GELU, or it is a decoder")
        self.scale = float(attention.scaling)
        self.heads = int(attention.num_attention_heads)
        self.epsilons = [float(each.eps) for each in norms]
        modules = [*products[:4], norms[0], *products[4:], norms[1]]
        self.parameters: list[nn.Parameter] = [each for module in modules for each in (module.weight, module.bias)]

    def weights(self, dtype: torch.dtype) -> _Weights:
        """What one step computes with."""
        return _Weights(self, dtype)

    def gradients(self, found: list[Tensor]) -> list[Tensor]:
        """The gradients of `parameters` from those of `_Weights`."""
        weight, bias, *others = found
        split = [each for pair in zip(weight.chunk(3), bias.chunk(3), strict=True) for each in pair]
        return [split[0] * self.scale, split[1] * self.scale, *split[2:], *others]


class _Product:
    """A linear layer's weight and bias, and the weight in the order in which the matrix units take it as well.

    Args:
        weight: (m, k).
        bias: (m,).
        dtype: what to compute in.
    """

    def __init__(self, weight: Tensor, bias: Tensor, dtype: torch.dtype) -> None:
        self.weight, self._bias = weight.to(dtype), bias.to(dtype)
        self._ordered: Tensor | None = None
        if dtype == torch.bfloat16 and torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
            self._ordered = torch.ops.mkldnn._reorder_linear_weight(self.weight, PASS_TOKENS)

    def __call__(self, states: Tensor, added: Tensor | None = None) -> Tensor:
        """States (T, k) to (T, m), with (T, m) added if given."""
        if self._ordered is None:
            found = linear(states, self.weight, self._bias)
            return found if added is None else found.add_(added)
        if added is None:
            return self._pointwise(states, "none", "")
        product = torch.ops.mkldnn._linear_pointwise.binary
        return cast(Tensor, product(states, added, self._ordered, self._bias, "add"))

    def gelu(self, states: Tensor) -> Tensor:
        """States (T, k) to (T, m), with GELU after it."""
        if self._ordered is None:
            return gelu(linear(states, self.weight, self._bias))
        return self._pointwise(states, "gelu", "none")

    def _pointwise(self, states: Tensor, after: str, kind: str) -> Tensor:
        product = torch.ops.mkldnn._linear_pointwise
        return cast(Tensor, product(states, self._ordered, self._bias, after, [], kind))


class _Weights:
    """A layer's weights in the type to compute in; those of query, key and value in one, with attention's scale."""

    def __init__(self, layer: _Layer, dtype: torch.dtype) -> None:
        detached = [each.detach() for each in layer.parameters]
        query, query_bias, key, key_bias, value, value_bias = detached[:6]
        self.heads = layer.heads
        self.epsilons = layer.epsilons
        weight = torch.cat([query * layer.scale, key, value])
        self.attention = _Product(weight, torch.cat([query_bias * layer.scale, key_bias, value_bias]), dtype)
        self.output, self.up, self.down = (_Product(detached[at], detached[at + 1], dtype) for at in (6, 10, 12))
        self.norms = [detached[8:10], detached[14:16]]

    def room(self, rows: int, filled: int) -> tuple[Tensor, Tensor]:
        """What the forward passes of a lane write to, zero after so many: attention's output, and the activations."""
        inner, width = self.up.weight.shape
        found = self.up.weight.new_empty(rows, width), self.up.weight.new_empty(rows, inner)
        for each in found:
            each[filled:] = 0
        return found

    def forward(self, states: Tensor, part: _Pass, room: tuple[Tensor, ...] | None) -> tuple[Tensor, Any]:
        """The layer's output (T, H), and what the way back needs if there is room to keep it."""
        if room is None:
            middle = self._norm(self.output(self._attended(self.attention(states), part), states), 0)[0]
            return self._norm(self.down(self.up.gelu(middle), middle), 1)[0], None
        attended, activated = room
        kept = self._attend(self.attention(states), part, attended)
        first = self.output(attended, states)
        middle, *first_moments = self._norm(first, 0)
        up = self.up(middle)
        second = self.down(torch.ops.aten.gelu.out(up, out=activated), middle)
        above, *second_moments = self._norm(second, 1)
        return above, (states, kept, first, first_moments, middle, up, second, second_moments)

    def backward(
        self, above: Tensor, part: _Pass, kept: Any, left: SimpleNamespace, below_too: bool
    ) -> tuple[Tensor | None, list[Tensor]]:
        """From the gradient of the output to that of the input, if wanted, and those of the norms' weights.

        What the other weights' gradients are computed from is left in `left`.
        """
        states, attention_kept, first, first_moments, middle, up, second, second_moments = kept
        d_second, *d_norm_2 = self._norm_backward(above, second, second_moments, 1)
        d_up = torch.ops.aten.gelu_backward.grad_input(d_second @ self.down.weight, up, grad_input=left.up)
        d_middle = torch.addmm(d_second, d_up, self.up.weight)
        d_first, *d_norm_1 = self._norm_backward(d_middle, first, first_moments, 0)
        d_attention = self._attend_backward(d_first @ self.output.weight, part, attention_kept, left.attention)
        sides = (left.states, states), (left.middle, middle), (left.first, d_first), (left.second, d_second)
        for place, rows in sides:
            place.copy_(rows)
        below = torch.addmm(d_first, d_attention, self.attention.weight) if below_too else None
        return below, [*d_norm_1, *d_norm_2]

    def gradients(self, left: _Left, room: tuple[Tensor, Tensor], norms: list[Tensor]) -> list[Tensor]:
        """Those of the 12 weights, from what the passes of a lane left."""
        attended, activated = room
        attention, up = left.states @ left.attention, left.middle @ left.up
        return [
            attention[:-1].T,
            attention[-1],
            left.first @ attended,
            left.first.sum(1),
            *norms[:2],
            up[:-1].T,
            up[-1],
            left.second @ activated,
            left.second.sum(1),
            *norms[2:],
        ]

    def _attended(self, projected: Tensor, part: _Pass) -> Tensor:
        """Queries, keys and values (T, 3 H) to attention's output (T, H)."""
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

    def _attend(self, projected: Tensor, part: _Pass, attended: Tensor) -> list[Any]:
        """The same written to `attended`, and what the way back needs: PyTorch's own kernel takes much longer back."""
        kept = []
        for block in part.blocks:
            heads = self._heads(projected, block)
            query, key, value = heads.reshape(3, block.texts * self.heads, block.length, -1)
            share = self._score(query, key, block).softmax(-1)
            _put(attended, block, self._merged(torch.bmm(share, value), block))
            kept.append((query, key, value, share))
        attended[part.tokens.stop - part.tokens.start :] = 0
        return kept

    def _attend_backward(self, gradient: Tensor, part: _Pass, kept: Any, found: Tensor) -> Tensor:
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
        return found

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

    def _norm(self, states: Tensor, which: int) -> tuple[Tensor, Tensor, Tensor]:
        weight, bias = self.norms[which]
        found: tuple[Tensor, Tensor, Tensor] = torch.native_layer_norm(
            states, states.shape[1:], weight, bias, self.epsilons[which]
        )
        return found

    def _norm_backward(self, gradient: Tensor, states: Tensor, moments: list[Tensor], which: int) -> Any:
        weight, bias = self.norms[which]
        return torch.ops.aten.native_layer_norm_backward(
            gradient, states, states.shape[1:], *moments, weight, bias, [True, True, True]
        )


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
