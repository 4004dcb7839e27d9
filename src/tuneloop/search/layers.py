"""The stack of layers inside a transformer: cut in two, the lower part run once, the upper part replayed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Depth(NamedTuple):
    """Where a stack of layers is cut.

    Attributes:
        layers: how many are below.
        attention: whether the attention of the next one is below as well, with the norm after it.
    """

    layers: int
    attention: bool = False

    @property
    def halves(self) -> int:
        """How many half layers are below."""
        return 2 * self.layers + self.attention


BOTTOM = Depth(0)


class _Reached(Exception):
    """Carries the lower part's output out of a forward pass that need not go on."""

    def __init__(self, output: Tensor) -> None:
        self.output = output


class LayerStack:
    """The layers of the transformer in `module`, which maps features to features.

    Args:
        module: an encoder, such as a SentenceTransformer or one route of its Router.
        forward: runs the module on features and gives the sentence embeddings.
    """

    def __init__(self, module: nn.Module, forward: Callable[[dict[str, Any]], Tensor]) -> None:
        self.layers = find_layers(module)
        self.forward = forward
        self._parameters = list(module.parameters())
        self._outputs: dict[nn.Module, int] = {}  # how many values each module gives, if it gives a tuple

    def __len__(self) -> int:
        return len(self.layers)

    def depth(self, layers: int, *, attention: bool) -> Depth:
        """Where it can be cut: at least one layer above, and within one only where that has BERT's attention."""
        layers = max(0, min(layers, len(self) - 1))
        return Depth(layers, attention and layers > 0 and _normed_attention(self.layers[layers]) is not None)

    def below(self, features: dict[str, Any], depth: Depth) -> Tensor:
        """The hidden states (B, L, H) at a depth.

        Raises:
            TypeError: a layer does not hand on plain hidden states.
        """

        def note(module: nn.Module, _arguments: Any, output: Any) -> None:
            self._outputs[module] = len(output) if isinstance(output, tuple) else 0

        def stop(module: nn.Module, _arguments: Any, output: Any) -> None:
            hidden = output[0] if isinstance(output, tuple) else output
            if not isinstance(hidden, Tensor):
                raise TypeError(f"a layer gives {type(hidden).__name__}, not hidden states")
            raise _Reached(hidden)

        last = self._last_below(depth)
        modules = {self.layers[depth.layers - 1], last}
        hooks = [*(each.register_forward_hook(note) for each in modules), last.register_forward_hook(stop)]
        try:
            self.forward(features)
        except _Reached as reached:
            return reached.output
        finally:
            for hook in hooks:
                hook.remove()
        raise TypeError("the layers are not run in order")

    def _last_below(self, depth: Depth) -> nn.Module:
        """The module whose output are the hidden states at a depth."""
        attention = _normed_attention(self.layers[depth.layers]) if depth.attention else None
        return attention or self.layers[depth.layers - 1]

    def freeze_below(self, features: dict[str, Any], depth: Depth) -> None:
        """Fix every parameter that the hidden states at a depth depend on; train all others."""
        for parameter in self._parameters:
            parameter.requires_grad_(True)
        if depth == BOTTOM:
            return
        with torch.enable_grad():
            output = self.below(features, depth)
            gradients = torch.autograd.grad(output.float().sum(), self._parameters, allow_unused=True)
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            parameter.requires_grad_(gradient is None)

    @contextmanager
    def replay(self, depth: Depth) -> Iterator[Callable[[dict[str, Any], Tensor], Tensor]]:
        """Within this context, embeddings are computed from hidden states by the layers above a depth alone.

        The model's own code still runs around the layers, so that masks, positions and norms are as it makes them;
        those below just pass on. `below` must have been called once.
        """
        current: list[Tensor] = []
        last = self._last_below(depth)
        lower = list(dict.fromkeys([*self.layers[: depth.layers], last]))
        outputs, at_last = self._outputs[self.layers[depth.layers - 1]], self._outputs[last]

        def pass_on(*arguments: Any, **named: Any) -> Any:
            return packed(arguments[0] if arguments else named["hidden_states"], outputs)

        def inject(*_arguments: Any, **_named: Any) -> Any:
            return packed(current[0], at_last)

        def packed(hidden: Tensor, count: int) -> Any:
            return (hidden, *[None] * (count - 1)) if count else hidden

        for layer in lower:
            layer.forward = pass_on
        last.forward = inject

        def forward(features: dict[str, Any], hidden: Tensor) -> Tensor:
            current[:] = [hidden]
            return self.forward(features)

        try:
            yield forward
        finally:
            for layer in lower:
                del layer.forward


def find_layers(module: nn.Module) -> nn.ModuleList:
    """The list of transformer layers in a module; an empty one when it has none, or shares one layer many times."""
    lists = [each for each in module.modules() if isinstance(each, nn.ModuleList) and len(each) > 1]
    if not lists:
        return nn.ModuleList()
    return max(lists, key=lambda each: sum(parameter.numel() for parameter in each.parameters()))


def _normed_attention(layer: nn.Module) -> nn.Module | None:
    """A layer's attention where that gives hidden states, with sum and norm, as BERT's does."""
    attention: Any = getattr(layer, "attention", None)
    norm = getattr(getattr(attention, "output", None), "LayerNorm", None)
    return attention if isinstance(norm, nn.LayerNorm) else None
