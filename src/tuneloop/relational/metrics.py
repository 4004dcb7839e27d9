"""How good predictions are, by the metrics of each task type; from scikit-learn, as everybody computes them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Values = NDArray[Any]


def measure(metric: str, labels: Values, predictions: Values) -> float:
    """The value of a metric.

    Args:
        metric: one of `tuneloop.relational.schema.METRICS`.
        labels: (N,) of 0 and 1, of class numbers or of numbers; (N, C) of 0 and 1 for several labels.
        predictions: (N,) probabilities or numbers; (N, C) probabilities for classes and for several labels.

    Returns:
        NaN where it is not defined, such as the AUROC of one class.
    """
    from sklearn import metrics as known

    if metric.startswith("multilabel_"):
        return _multilabel(metric.removeprefix("multilabel_"), labels, predictions)
    if metric in ("roc_auc", "average_precision"):
        if len(np.unique(labels)) < 2:
            return float("nan")
        score = known.roc_auc_score if metric == "roc_auc" else known.average_precision_score
        return float(score(labels, predictions))
    if metric in ("macro_f1", "micro_f1") or predictions.ndim == 2:
        chosen = predictions.argmax(1)
        if metric == "accuracy":
            return float(known.accuracy_score(labels, chosen))
        return float(known.f1_score(labels, chosen, average=metric.removesuffix("_f1"), zero_division=0))
    if metric in ("accuracy", "f1", "precision", "recall"):
        chosen = predictions >= 0.5
        if metric == "accuracy":
            return float(known.accuracy_score(labels, chosen))
        score = {"f1": known.f1_score, "precision": known.precision_score, "recall": known.recall_score}[metric]
        return float(score(labels, chosen, zero_division=0))
    errors = labels - predictions
    if metric == "mae":
        return float(np.abs(errors).mean())
    if metric == "rmse":
        return float(np.sqrt((errors**2).mean()))
    if metric == "mape":
        return float(known.mean_absolute_percentage_error(labels, predictions))
    return float(known.r2_score(labels, predictions))


def _multilabel(metric: str, labels: Values, predictions: Values) -> float:
    """Of several labels at once: over all of them together (micro), or the mean of each (macro)."""
    from sklearn import metrics as known

    name, _, average = metric.partition("_")
    if name == "precision":
        return float(known.precision_score(labels, predictions >= 0.5, average=average, zero_division=0))
    both = (labels.min(0) != labels.max(0)) if average == "macro" else np.ones(labels.shape[1], bool)
    if not both.any() or labels.min() == labels.max():
        return float("nan")
    score = known.average_precision_score if name == "auprc" else known.roc_auc_score
    return float(score(labels[:, both], predictions[:, both], average=average))
