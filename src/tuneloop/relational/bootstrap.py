"""How sure a metric is: bootstrap intervals that draw whole entities, as examples of one are no independent witnesses.

A bootstrap sample is a weight for each example: metrics are computed with weights, and sort once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Values = NDArray[Any]
Weights = NDArray[np.float64]  # (N,)
Statistic = Callable[[Weights], float]
LEVEL = 0.95
MOST_DRAWS, LEAST_DRAWS = 1000, 200
_WORK = 20_000_000  # examples that all draws look at together, about
_LEAST = float(np.finfo(float).eps)


@dataclass(frozen=True)
class Interval:
    """A metric's value, and the bounds of its interval: NaN where it is not defined or there is one entity only."""

    value: float
    low: float
    high: float


def interval(measured: Statistic, entities: NDArray[np.int64], *, seed: int = 0) -> Interval:
    """A statistic of all examples, and the 95 % percentile interval that it has over samples of entities.

    Args:
        measured: the statistic, by the weights of the examples.
        entities: whom each example is about, as numbers, (N,).
        seed: of the draws.
    """
    value = measured(np.ones(len(entities)))
    if (entities == entities[:1]).all() or np.isnan(value):
        return Interval(value, float("nan"), float("nan"))
    count = int(np.clip(_WORK // max(len(entities), 1), LEAST_DRAWS, MOST_DRAWS))
    found = [measured(weights) for weights in samples(entities, count, seed=seed)]
    there = np.array(found)[~np.isnan(found)]
    if not len(there):
        return Interval(value, float("nan"), float("nan"))
    low, high = np.quantile(there, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(value, min(float(low), value), max(float(high), value))


def samples(entities: NDArray[np.int64], count: int, *, seed: int = 0) -> Iterator[Weights]:
    """So many samples of entities: how often each example is drawn, (N,)."""
    known, group = np.unique(entities, return_inverse=True)
    rng = np.random.default_rng(seed)
    for _ in range(count):
        often = np.bincount(rng.integers(len(known), size=len(known)), minlength=len(known))
        yield often[group].astype(float)


def mean_statistic(values: NDArray[np.float64]) -> Statistic:
    """The mean of a value of each example as a function of the examples' weights."""
    return lambda weights: _ratio(weights @ values, weights.sum())


def statistic(metric: str, labels: Values, predictions: Values) -> Statistic:
    """A metric as a function of the examples' weights."""
    if metric.startswith("multilabel_"):
        return _multilabel(metric.removeprefix("multilabel_"), labels, predictions)
    if metric in ("roc_auc", "average_precision"):
        return _curve(metric, labels, predictions)
    if predictions.ndim == 2:
        return _of_classes(metric, labels, predictions)
    if metric in ("accuracy", "f1", "precision", "recall"):
        return _of_choices(metric, labels > 0.5, predictions >= 0.5)
    return _of_errors(metric, labels, predictions)


def _ratio(part: Any, whole: Any, *, empty: float = float("nan")) -> float:
    return float(part / whole) if whole > 0 else empty


def _curve(metric: str, labels: Values, predictions: Values) -> Statistic:
    """The area under the ROC curve, or the average precision; equal predictions are one step."""
    order = np.argsort(-predictions, kind="stable")
    ordered, true = predictions[order], labels[order] > 0.5
    starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))

    def measured(weights: Weights) -> float:
        weights = weights[order]
        positive = np.add.reduceat(np.where(true, weights, 0.0), starts)
        negative = np.add.reduceat(np.where(true, 0.0, weights), starts)
        hits, misses = positive.cumsum(), negative.cumsum()
        if hits[-1] == 0 or misses[-1] == 0:
            return float("nan")
        if metric == "roc_auc":
            return float((negative * (hits - positive / 2)).sum() / (hits[-1] * misses[-1]))
        return float((positive * hits / np.maximum(hits + misses, _LEAST)).sum() / hits[-1])

    return measured


def _of_choices(metric: str, true: NDArray[np.bool_], chosen: NDArray[np.bool_]) -> Statistic:
    both, same = true & chosen, true == chosen

    def measured(weights: Weights) -> float:
        if metric == "accuracy":
            return _ratio(weights @ same, weights.sum())
        hits, there, said = weights @ both, weights @ true, weights @ chosen
        of = {"precision": said, "recall": there, "f1": (there + said) / 2}[metric]
        return _ratio(hits, of, empty=0.0)

    return measured


def _of_classes(metric: str, labels: Values, predictions: Values) -> Statistic:
    true, chosen, count = labels.astype(int), predictions.argmax(1), predictions.shape[1]
    same = true == chosen

    def measured(weights: Weights) -> float:
        if metric != "macro_f1":  # of one label an example, the micro F1 is the accuracy
            return _ratio(weights @ same, weights.sum())
        there, said = np.bincount(true, weights, count), np.bincount(chosen, weights, count)
        hits = np.bincount(true[same], weights[same], count)
        known = there + said > 0
        return float((2 * hits[known] / (there + said)[known]).mean()) if known.any() else float("nan")

    return measured


def _multilabel(metric: str, labels: Values, predictions: Values) -> Statistic:
    name, _, average = metric.partition("_")
    columns = labels.shape[1]
    if average == "micro":
        labels, predictions = labels.reshape(-1, 1), predictions.reshape(-1, 1)
    measures = []
    for true, predicted in zip(labels.T, predictions.T, strict=True):
        if name == "precision":
            measures.append(_of_choices("precision", true > 0.5, predicted >= 0.5))
        else:
            measures.append(_curve("average_precision" if name == "auprc" else "roc_auc", true, predicted))

    def measured(weights: Weights) -> float:
        if average == "micro":
            return measures[0](np.repeat(weights, columns))
        values = np.array([each(weights) for each in measures])
        return float("nan") if np.isnan(values).all() else float(np.nanmean(values))

    return measured


def _of_errors(metric: str, labels: Values, predictions: Values) -> Statistic:
    errors = np.abs(labels - predictions)
    values = {"mae": errors, "mape": errors / np.maximum(np.abs(labels), _LEAST)}.get(metric, errors**2)

    def measured(weights: Weights) -> float:
        mean = _ratio(weights @ values, weights.sum())
        if metric == "rmse":
            return float(np.sqrt(mean))
        if metric != "r2":
            return mean
        centre = _ratio(weights @ labels, weights.sum())
        spread = _ratio(weights @ (labels - centre) ** 2, weights.sum())
        return 1 - mean / spread if spread > 0 else float("nan")

    return measured
