"""Linear models over an example's features, which go on as before where trees have seen nothing alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from scipy.special import expit, logit, ndtri

from tuneloop.relational.boosted import Labels
from tuneloop.relational.features import Features
from tuneloop.relational.schema import NodeTaskType

MAX_EXAMPLES = 8_000  # more of them change the weights little
MAX_OUTPUTS = 20
_PLACES = np.linspace(0.0, 1.0, 51)
_LEAST, _MOST = 0.1, 2.5  # the least share of examples of which a feature is known; the largest score
_LEAST_SHARE = 1e-3  # of ones: what is always so is certain, but not beyond doubt
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Scale:
    """Features as normal scores: where a value stands among those learnt from; 0, the middle, where nothing is known.

    A score changes evenly from one known value to the next. Categories and what is hardly known are left out.

    Attributes:
        values: of each feature, rising, (F, K).
        scores: of these values, (F, K).
    """

    values: Floats
    scores: Floats

    @classmethod
    def of(cls, features: Features) -> Self:
        """Learn it from (N, F) features."""
        normal = np.clip(ndtri(_PLACES), -_MOST, _MOST)
        shape = len(features.columns), len(_PLACES)
        values, scores = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        for number, (feature, column) in enumerate(zip(features.columns, features.values.T, strict=True)):
            known = column[np.isfinite(column)]
            if feature.codes or len(known) < max(_LEAST * len(column), 1):
                continue
            found, places = np.unique(np.quantile(known, _PLACES).astype(np.float32), return_inverse=True)
            score = np.bincount(places, normal) / np.bincount(places)
            after = len(_PLACES) - len(found)
            values[number] = np.pad(found, (0, after), mode="edge")
            scores[number] = np.pad(score, (0, after), mode="edge") if len(found) > 1 else 0.0
        return cls(values, scores)

    def __call__(self, values: NDArray[np.floating[Any]]) -> Floats:
        """Scores of (N, F) features."""
        found = np.zeros(values.shape, np.float32)
        for number, (known, scores) in enumerate(zip(self.values, self.scores, strict=True)):
            if scores.any():
                found[:, number] = np.nan_to_num(np.interp(values[:, number], known, scores))
        return found


@dataclass(frozen=True)
class Linear:
    """A fitted linear model.

    Attributes:
        scale: how features are read.
        weights: of the scores, (F, O).
        intercepts: (O,).
        task_type: what is predicted.
    """

    scale: Scale
    weights: Floats
    intercepts: Floats
    task_type: NodeTaskType

    def predict(self, values: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Probabilities or numbers, (N,), or (N, O) of classes or several labels."""
        scores, weights = self.scale(values), self.weights.astype(np.float64)
        # Not a matrix product, in which an example's last digits depend on the examples beside it.
        outputs: NDArray[np.float64] = np.stack([(scores * each).sum(axis=1) for each in weights.T], axis=1)
        outputs += self.intercepts
        if self.task_type == "regression":
            return outputs[:, 0]
        found: NDArray[np.float64] = expit(outputs)
        if self.task_type == "multiclass_classification":  # one against the rest
            return np.asarray(found / found.sum(axis=1, keepdims=True))
        return found[:, 0] if self.task_type == "binary_classification" else found

    def importances(self) -> NDArray[np.float64]:
        """How far features move the outputs, by feature, (F,), summing to one."""
        moves = np.abs(self.weights).sum(axis=1, dtype=np.float64) * self.scale.scores.std(axis=1)
        return np.asarray(moves / max(moves.sum(), 1e-12))

    def save(self, path: Path) -> None:
        """Write it as safetensors."""
        tensors = {"values": self.scale.values, "scores": self.scale.scores}
        save_file({**tensors, "weights": self.weights, "intercepts": self.intercepts}, path)

    @classmethod
    def load(cls, path: Path, task_type: NodeTaskType) -> Self:
        """Read what `save` wrote."""
        tensors: Mapping[str, Floats] = load_file(path)
        scale = Scale(tensors["values"], tensors["scores"])
        return cls(scale, tensors["weights"], tensors["intercepts"], task_type)


def fit_linear(
    task_type: NodeTaskType,
    features: Features,
    labels: Labels,
    strength: float,
    *,
    seed: int,
    weights: NDArray[np.float64] | None = None,
) -> Linear:
    """Fit a ridge or logistic regression (scikit-learn); of several labels or classes one each.

    Args:
        task_type: what the labels are.
        features: (N, F).
        labels: of the examples.
        strength: how much all the examples together count against weights that are small.
        seed: of the choice of examples, where there are many.
        weights: of the examples, (N,).
    """
    from sklearn.linear_model import LogisticRegression, Ridge

    count = len(features.values)
    weights = np.ones(count) if weights is None else weights
    chosen = np.arange(count)
    if count > MAX_EXAMPLES:
        chosen = np.sort(np.random.default_rng([seed, count]).choice(count, MAX_EXAMPLES, replace=False))
    scale = Scale.of(Features(features.values[chosen], features.columns))
    scores, counted = scale(features.values[chosen]), weights[chosen] / weights[chosen].mean()
    targets = _targets(task_type, labels, chosen)
    found, intercepts = (
        np.zeros((scores.shape[1], targets.shape[1]), np.float32),
        np.zeros(targets.shape[1], np.float32),
    )
    for number, target in enumerate(targets.T):
        if task_type == "regression":
            model = Ridge(alpha=len(chosen) / strength, solver="cholesky")
        elif target.min() == target.max():
            intercepts[number] = logit(np.clip(target[0], _LEAST_SHARE, 1.0 - _LEAST_SHARE))
            continue
        else:
            model = LogisticRegression(C=strength / len(chosen), solver="newton-cholesky")
        model.fit(scores, target, counted)
        found[:, number], intercepts[number] = np.ravel(model.coef_), np.ravel(model.intercept_)[0]
    return Linear(scale, found, intercepts, task_type)


def _targets(task_type: NodeTaskType, labels: Labels, chosen: NDArray[np.int64]) -> NDArray[np.float64]:
    """What each output is fitted to, (N, O)."""
    values = labels.values[chosen]
    if task_type == "multiclass_classification":
        return np.asarray(values[:, None] == np.arange(len(labels.classes)), np.float64)
    return values.reshape(len(chosen), -1)
