"""The weights of a run, averaged over its last steps."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch

from tuneloop.search.encoder import Encoder

# The average reaches back over about one in so many of the steps so far.
REACH = 8


class AveragedWeights:
    """An average of the trained weights that follows them, to judge a run by and to keep.

    While the learning rate is high the weights swing around what they are coming to, and a run with a lower one looks
    better than it will be beside it. Their average shows it at any step (polynomial-decay averaging: Shamir and Zhang,
    Stochastic Gradient Descent for Non-smooth Optimization, 2013).

    Args:
        encoder: what is trained.
    """

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._average = encoder.trained_state()
        self._steps = 0

    def update(self) -> None:
        """After each step of the optimiser: draw the average to the weights as they are."""
        share = (REACH + 1) / (self._steps + REACH + 1)
        self._steps += 1
        with torch.no_grad():
            now = self._encoder.trained()
            torch._foreach_lerp_([self._average[name] for name in now], [each.detach() for each in now.values()], share)

    def applied(self) -> AbstractContextManager[None]:
        """Within this context the encoder has the averaged weights."""
        return self._encoder.holding(self._average)
