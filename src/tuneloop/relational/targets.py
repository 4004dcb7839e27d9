"""What a network predicts: labels as tensors, the loss, and outputs as predictions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from tuneloop.relational.examples import Examples
from tuneloop.relational.labels import classes_of, label_values
from tuneloop.relational.schema import NodeTask, NodeTaskType

_MIN_SCALE = 1e-9


@dataclass(frozen=True)
class Target:
    """A node task's labels.

    Attributes:
        task_type: what they are.
        classes: of several, in the order of the outputs.
        absolute: of numbers: whether it is the absolute error that counts.
        centre: of numbers: what an output of 0 stands for.
        scale: of numbers: what an output of 1 adds.
    """

    task_type: NodeTaskType
    classes: tuple[str, ...] = ()
    absolute: bool = False
    centre: float = 0.0
    scale: float = 1.0

    @classmethod
    def of(cls, task: NodeTask, train: Examples) -> Target:
        """The labels of training examples: for absolute errors by median and quartiles, else by mean and deviation."""
        assert train.labels is not None
        classes = classes_of(task, train.labels)
        if task.task_type != "regression":
            return cls(task.task_type, classes)
        values = label_values(task, train.labels, classes)
        absolute = task.evaluation_metric in ("mae", "mape")
        if absolute:
            low, centre, high = np.quantile(values, [0.25, 0.5, 0.75])
            scale = float(high - low) / 1.349 or float(values.std())
        else:
            centre, scale = values.mean(), float(values.std())
        return cls(task.task_type, classes, absolute, float(centre), max(scale, _MIN_SCALE))

    @property
    def outputs(self) -> int:
        """How many numbers a network predicts."""
        return max(len(self.classes), 1)

    def numbers(self, task: NodeTask, examples: Examples) -> NDArray[np.float64]:
        """Labels as `tuneloop.relational.metrics.measure` takes them."""
        assert examples.labels is not None
        return label_values(task, examples.labels, self.classes)

    def loss(self, outputs: Tensor, numbers: NDArray[np.float64]) -> Tensor:
        """The loss of each example, (B,)."""
        labels = torch.tensor(numbers)
        if self.task_type == "multiclass_classification":
            return functional.cross_entropy(outputs, labels.long(), reduction="none")
        if self.task_type == "multilabel_classification":
            return functional.binary_cross_entropy_with_logits(outputs, labels.float(), reduction="none").mean(1)
        if self.task_type == "binary_classification":
            return functional.binary_cross_entropy_with_logits(outputs[:, 0], labels.float(), reduction="none")
        scaled = ((labels - self.centre) / self.scale).float()
        if self.absolute:
            return functional.smooth_l1_loss(outputs[:, 0], scaled, reduction="none", beta=0.1)
        return functional.mse_loss(outputs[:, 0], scaled, reduction="none")

    def predictions(self, outputs: Tensor) -> NDArray[np.float64]:
        """Probabilities or numbers, (N,) or (N, C)."""
        outputs = outputs.double()
        if self.task_type == "multiclass_classification":
            return outputs.softmax(1).numpy()
        if self.task_type == "multilabel_classification":
            return outputs.sigmoid().numpy()
        if self.task_type == "binary_classification":
            return outputs[:, 0].sigmoid().numpy()
        return (outputs[:, 0] * self.scale + self.centre).numpy()

    def document(self) -> dict[str, Any]:
        """It as JSON values."""
        return asdict(self)

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> Target:
        """What `document` gave."""
        return cls(**{**document, "classes": tuple(document["classes"])})
