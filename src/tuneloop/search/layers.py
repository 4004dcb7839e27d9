"""The stack of layers inside a transformer: cut in two, the lower part run once, the upper part replayed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


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
        self._outputs = 0  # how many values a layer gives, when it gives a tuple

    def __len__(self) -> int:
        return len(self.layers)

    def below(self, features: dict[str, Any], depth: int) -> Tensor:
        """The hidden states (B, L, H) that leave the first `depth` layers.

        Raises:
            TypeError: a layer does not hand on plain hidden states.
        """

        def stop(_layer: nn.Module, _arguments: Any, output: Any) -> None:
            self._outputs = len(output) if isinstance(output, tuple) else 0
            hidden = output[0] if self._outputs else output
            if not isinstance(hidden, Tensor):
                raise TypeError(f"a layer gives {type(hidden).__name__}, not hidden states")
            raise _Reached(hidden)

        hook = self.layers[depth - 1].register_forward_hook(stop)
        try:
            self.forward(features)
        except _Reached as reached:
            return reached.output
        finally:
            hook.remove()
        raise TypeError("the layers are not run in order")

    def freeze_below(self, features: dict[str, Any], depth: int) -> None:
        """Fix every parameter that the hidden states above `depth` layers depend on; train all others."""
        for parameter in self._parameters:
            parameter.requires_grad_(True)
        if depth == 0:
            return
        with torch.enable_grad():
            output = self.below(features, depth)
            gradients = torch.autograd.grad(output.float().sum(), self._parameters, allow_unused=True)
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            parameter.requires_grad_(gradient is None)

    @contextmanager
    def replay(self, depth: int) -> Iterator[Callable[[dict[str, Any], Tensor], Tensor]]:
        """Within this context, embeddings are computed from hidden states by the layers above `depth` alone.

        The model's own code still runs around the layers, so that masks, positions and norms are as it makes them;
        the first `depth` layers just pass on. `below` must have been called once.
        """
        current: list[Tensor] = []

        def pass_on(*arguments: Any, **named: Any) -> Any:
            return as_layer(arguments[0] if arguments else named["hidden_states"])

        def inject(*_arguments: Any, **_named: Any) -> Any:
            return as_layer(current[0])

        def as_layer(hidden: Tensor) -> Any:
            return (hidden, *[None] * (self._outputs - 1)) if self._outputs else hidden

        lower = list(self.layers[:depth])
        for layer in lower:
            layer.forward = pass_on
        lower[-1].forward = inject

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
