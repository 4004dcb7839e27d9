"""Generated features as a network reads them, beside the rows (Cheng et al., Wide & Deep Learning, 2016)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from tuneloop.relational.features import Features
from tuneloop.relational.linear import Scale
from tuneloop.relational.plan import Plan


@dataclass(frozen=True)
class Wide:
    """What is computed of examples, and how it is read.

    Attributes:
        plan: the features.
        names: of the features.
        scale: which makes normal scores of them.
    """

    plan: Plan
    names: tuple[str, ...]
    scale: Scale

    @classmethod
    def of(cls, plan: Plan, train: Features) -> Self:
        """Learn how to read them from those of training examples."""
        return cls(plan, tuple(each.name for each in train.columns), Scale.of(train))

    def scores(self, features: Features) -> Tensor:
        """The scores of features, (N, F).

        Raises:
            InvalidInput: they are others than those learnt from.
        """
        features.require(self.names)
        return torch.from_numpy(self.scale(features.values))

    def document(self) -> dict[str, Any]:
        """All but the scale, as JSON values."""
        return {"plan": self.plan.to_json(), "names": list(self.names)}

    def tensors(self) -> dict[str, Tensor]:
        """The scale."""
        return {"values": torch.from_numpy(self.scale.values), "scores": torch.from_numpy(self.scale.scores)}

    @classmethod
    def parse(cls, document: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """What `document` and `tensors` gave."""
        scale = Scale(tensors["values"].numpy(), tensors["scores"].numpy())
        return cls(Plan.from_json(document["plan"]), tuple(document["names"]), scale)
