"""Half a layer of BERT's kind, its attention or what follows it, written out: forward, and the way back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers.activations import GELUActivation

from tuneloop.search.passes import PASS_TOKENS, Block, Pass
from tuneloop.search.products import PlainProduct, Product

# Tokens of a text, at most, whose scores are all held at once where nothing is learnt.
SHORT = 512


class NotFusible(TypeError):
    """The encoder is not made of BERT's layers."""


class Half:
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

    def weights(self, dtype: torch.dtype) -> Weights:
        """What one step computes with."""
        return Attention(self, dtype) if self.heads else FeedForward(self, dtype)

    def gradients(self, found: list[Tensor]) -> list[Tensor]:
        """The gradients of `parameters` from those of `Weights`."""
        if not self.heads:
            return found
        weight, bias, *others = found
        split = [each for pair in zip(weight.chunk(3), bias.chunk(3), strict=True) for each in pair]
        return [split[0] * self.scale, split[1] * self.scale, *split[2:], *others]


def halves_of(layer: nn.Module) -> tuple[Half, Half]:
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
    return Half(entering, norms[0], heads=heads, scale=scale), Half(following, norms[1])


class Left:
    """What the passes of a lane leave of half a layer on the way back, for the products over all their rows.

    A product over rows wants its left side as columns: of the two the narrower one is turned, pass by pass. A row of
    ones gives the gradient of the bias on the way.

    Args:
        weights: of half a layer.
        rows, filled: of the lane, and how many of them the passes fill.
    """

    def __init__(self, weights: Weights, rows: int, filled: int) -> None:
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


class Weights(ABC):
    """The weights of half a layer in the type to compute in: a product to what is inside, one back, and a norm.

    Attributes:
        enter: (inner, H); of attention queries, keys and values in one, with attention's scale.
        leave: (H, what comes from inside), to which the input is added.
    """

    _even: tuple[str, ...]

    def __init__(self, half: Half, enter: tuple[Tensor, Tensor], dtype: torch.dtype) -> None:
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

    def forward(self, states: Tensor, part: Pass, room: Tensor | None) -> tuple[Tensor, Any]:
        """The output (T, H), and what the way back needs if there is room to keep it."""
        if room is None:
            return self._normed(self.leave(self._through(states, part), states))[0], None
        inside = self._keeping(states, part, room)
        sums = self.leave(room, states)
        above, *moments = self._normed(sums)
        return above, (states, inside, sums, moments)

    def backward(
        self, above: Tensor, part: Pass, kept: Any, left: SimpleNamespace, below_too: bool
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

    def gradients(self, left: Left, room: Tensor, norm: list[Tensor]) -> list[Tensor]:
        """Those of the 6 weights, from what the passes of a lane left."""
        enter = left.below @ left.inner
        return [enter[:-1].T, enter[-1], left.above @ room, left.above.sum(1), *norm]

    def _normed(self, sums: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        found: tuple[Tensor, Tensor, Tensor] = torch.native_layer_norm(sums, sums.shape[1:], *self._norm, self._epsilon)
        return found

    @abstractmethod
    def _through(self, states: Tensor, part: Pass) -> Tensor:
        """The input (T, H) to what comes from inside."""

    @abstractmethod
    def _keeping(self, states: Tensor, part: Pass, room: Tensor) -> Any:
        """The same, written to `room`; gives what the way back needs."""

    @abstractmethod
    def _back(self, gradient: Tensor, part: Pass, kept: Any, found: Tensor) -> None:
        """From the gradient of what comes from inside to that of what enters, (T, inner), written to `found`."""


class FeedForward(Weights):
    """Up, GELU, and down."""

    _even = ("enter",)  # what comes from GELU is mostly small, and large here and there

    def __init__(self, half: Half, dtype: torch.dtype) -> None:
        weight, bias = (each.detach() for each in half.parameters[:2])
        super().__init__(half, (weight, bias), dtype)

    def _through(self, states: Tensor, part: Pass) -> Tensor:
        return self.enter.gelu(states)

    def _keeping(self, states: Tensor, part: Pass, room: Tensor) -> Tensor:
        up = self.enter(states)
        torch.ops.aten.gelu.out(up, out=room)
        return up

    def _back(self, gradient: Tensor, part: Pass, kept: Tensor, found: Tensor) -> None:
        torch.ops.aten.gelu_backward.grad_input(gradient, kept, grad_input=found)


class Attention(Weights):
    """Queries, keys and values, and what they mix."""

    _even = ("enter", "leave")

    def __init__(self, half: Half, dtype: torch.dtype) -> None:
        query, query_bias, key, key_bias, value, value_bias = (each.detach() for each in half.parameters[:6])
        weight = torch.cat([query * half.scale, key, value])
        super().__init__(half, (weight, torch.cat([query_bias * half.scale, key_bias, value_bias])), dtype)
        self.heads = half.heads

    def _through(self, states: Tensor, part: Pass) -> Tensor:
        projected = self.enter(states)
        attended = projected.new_empty(len(projected), projected.shape[1] // 3)
        for block in part.blocks:
            heads = self._heads(projected, block)
            found = self._mixed(heads, block) if block.length <= SHORT else None
            if found is None:
                mask = None if block.mask is None else block.mask.to(heads.dtype)
                query, key, value = heads
                found = scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=1.0)
            block.put(attended, self._merged(found, block))
        attended[part.tokens.stop - part.tokens.start :] = 0
        return attended

    def _mixed(self, heads: Tensor, block: Block) -> Tensor | None:
        """Attention's output in a block, (texts * heads, length, width), or nothing where a score is too large.

        The softmax is not taken less its greatest score, and divides what comes out: two passes over the scores.
        """
        query, key, value = heads.reshape(3, block.texts * self.heads, block.length, -1)
        share = self._score(query, key, block).exp_()
        total = share.sum(-1, keepdim=True)
        if not (total.isfinite().all() and total.all()):
            return None
        return torch.bmm(share, value).div_(total)

    def _keeping(self, states: Tensor, part: Pass, room: Tensor) -> list[Any]:
        projected = self.enter(states)  # by products, as PyTorch's own kernel takes much longer back
        kept = []
        for block in part.blocks:
            heads = self._heads(projected, block)
            query, key, value = heads.reshape(3, block.texts * self.heads, block.length, -1)
            share = self._score(query, key, block).softmax(-1)
            block.put(room, self._merged(torch.bmm(share, value), block))
            kept.append((query, key, value, share))
        room[part.tokens.stop - part.tokens.start :] = 0
        return kept

    def _back(self, gradient: Tensor, part: Pass, kept: Any, found: Tensor) -> None:
        for block, (query, key, value, share) in zip(part.blocks, kept, strict=True):
            own = block.take(gradient).view(block.texts, block.length, self.heads, -1).transpose(1, 2)
            own = own.reshape(block.texts * self.heads, block.length, -1)
            d_share = torch.bmm(own, value.transpose(1, 2))
            d_score = torch.ops.aten._softmax_backward_data(d_share, share, -1, share.dtype)
            parts = (
                torch.bmm(d_score, key),
                torch.bmm(d_score.transpose(1, 2), query),
                torch.bmm(share.transpose(1, 2), own),
            )
            block.put(found, torch.cat([self._merged(each, block) for each in parts], dim=1))
        found[part.tokens.stop - part.tokens.start :] = 0

    def _score(self, query: Tensor, key: Tensor, block: Block) -> Tensor:
        """How much each token attends to each other one before the softmax, (texts * heads, length, length)."""
        score = torch.bmm(query, key.transpose(1, 2))
        if block.mask is not None:
            score.view(block.texts, self.heads, block.length, -1).add_(block.mask.to(score.dtype))
        return score

    def _heads(self, projected: Tensor, block: Block) -> Tensor:
        """Those of queries, keys and values in a block, (3, texts, heads, length, width)."""
        return block.take(projected).view(block.texts, block.length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)

    def _merged(self, heads: Tensor, block: Block) -> Tensor:
        """From (texts * heads, length, width) to (texts * length, heads * width)."""
        split = heads.view(block.texts, self.heads, block.length, -1)
        return split.transpose(1, 2).reshape(block.texts * block.length, -1)
