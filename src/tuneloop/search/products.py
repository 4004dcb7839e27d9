"""A linear layer's product on a CPU, in the order and in the numbers that its matrix units take."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.nn.functional import gelu, linear

# How much of the reach of an input's channel its weights take on: SmoothQuant's alpha.
SMOOTHING = 0.7
# Zero as an unsigned number of eight bits.
ZERO = 128
After = Literal["none", "gelu"]


def has_eight_bits() -> bool:
    """Whether the processor multiplies numbers of eight bits faster than others."""
    check = getattr(torch.cpu, "_is_vnni_supported", None)
    mkldnn: Any = torch.backends.mkldnn
    return mkldnn.is_available() and check is not None and check()


def _orders_bf16() -> bool:
    """Whether oneDNN has an order of its own for bfloat16 weights: no processor without AVX-512 or its like."""
    mkldnn: Any = torch.backends.mkldnn
    return mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


class Product(ABC):
    """What a linear layer computes.

    Attributes:
        weight: (m, k), in the type of the states.
        bias: (m,).
    """

    weight: Tensor
    bias: Tensor

    def __call__(self, states: Tensor, added: Tensor | None = None) -> Tensor:
        """States (T, k) to (T, m), with (T, m) added if given."""
        return self._computed(states, added, "none")

    def gelu(self, states: Tensor) -> Tensor:
        """States (T, k) to (T, m), with GELU after it."""
        return self._computed(states, None, "gelu")

    @abstractmethod
    def _computed(self, states: Tensor, added: Tensor | None, after: After) -> Tensor:
        """Either; nothing comes after what is added."""


class PlainProduct(Product):
    """In fp32 or bfloat16; then with the weight in the order in which the matrix units take it.

    Args:
        weight, bias: of the layer.
        dtype: what to compute in.
        rows: of the states that come, about.
    """

    def __init__(self, weight: Tensor, bias: Tensor, dtype: torch.dtype, *, rows: int) -> None:
        self.weight, self.bias = weight.to(dtype), bias.to(dtype)
        self._ordered: Tensor | None = None
        if dtype == torch.bfloat16 and _orders_bf16():
            self._ordered = torch.ops.mkldnn._reorder_linear_weight(self.weight, rows)

    def _computed(self, states: Tensor, added: Tensor | None, after: After) -> Tensor:
        if self._ordered is None:
            found = linear(states, self.weight, self.bias)
            found = gelu(found) if after == "gelu" else found
            return found if added is None else found.add_(added)
        product = torch.ops.mkldnn._linear_pointwise
        if added is not None:
            return cast(Tensor, product.binary(states, added, self._ordered, self.bias, "add"))
        return cast(Tensor, product(states, self._ordered, self.bias, after, [], "none"))


class WatchedProduct(Product):
    """A product that notes how far its input reaches, and its mean. Threads may share it.

    Args:
        product: what it computes.
    """

    def __init__(self, product: Product) -> None:
        self.weight, self.bias = product.weight, product.bias
        self._product = product
        self._seen: list[tuple[Tensor, Tensor, int]] = []

    @property
    def reach(self) -> Tensor:
        """The largest absolute value of each channel so far, (k,) float32."""
        return torch.stack([reach for reach, _, _ in self._seen]).amax(0).float()

    @property
    def mean(self) -> Tensor:
        """That of each channel, (k,) float32."""
        return torch.stack([total for _, total, _ in self._seen]).sum(0) / sum(rows for _, _, rows in self._seen)

    def _computed(self, states: Tensor, added: Tensor | None, after: After) -> Tensor:
        self._seen.append((states.abs().amax(0), states.float().sum(0), len(states)))
        return self._product._computed(states, added, after)


class EightBitProduct(Product):
    """Of whole numbers of eight bits, from bfloat16 and to it: nearly twice as fast on a processor with VNNI.

    Weights have a scale for each output, states one for all together. As some channels of the states reach much further
    than others, these are made smaller, and their weights larger (SmoothQuant: Xiao et al., 2023). What rounding the
    weights changes in the mean of an output is taken from its bias (Nagel et al., 2019).

    Args:
        watched: the product, which has seen states like those to come.
    """

    def __init__(self, watched: WatchedProduct) -> None:
        self.weight, self.bias = watched.weight, watched.bias
        weight = watched.weight.float()
        reach, taken = watched.reach.clamp(min=1e-3), weight.abs().amax(0).clamp(min=1e-5)
        more = reach**SMOOTHING / taken ** (1 - SMOOTHING)
        weight = weight * more
        self._less = 1 / more
        self._scales = weight.abs().amax(1).clamp(min=1e-8) / 127
        rounded = (weight / self._scales[:, None]).round()
        self._packed = torch.ops.onednn.qlinear_prepack(rounded.to(torch.int8), None)
        self._zeros = torch.zeros(len(weight), dtype=torch.int32)
        self._bias = watched.bias.float() + (weight - rounded * self._scales[:, None]) @ (watched.mean / more)

    def _computed(self, states: Tensor, added: Tensor | None, after: After) -> Tensor:
        less = states.float().mul_(self._less)
        low, high = torch.aminmax(less)
        scale = max(-float(low), float(high), 1e-8) / 127
        rounded = less.mul_(1 / scale).round_().to(torch.int8).view(torch.uint8).bitwise_xor_(ZERO)
        given = rounded, scale, ZERO, self._packed, self._scales, self._zeros
        answer = self._bias, 1.0, 0, torch.bfloat16
        product = torch.ops.onednn.qlinear_pointwise
        if added is not None:
            return cast(Tensor, product.binary(*given, added, *answer, 1.0, 0, "add", 1.0, "none", [], "none"))
        return cast(Tensor, product(*given, *answer, after, [], "none"))
