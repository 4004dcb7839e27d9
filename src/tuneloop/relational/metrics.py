"""How good predictions are, by the metrics of each task type; from scikit-learn, as everybody computes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tuneloop.relational.learner import Links
from tuneloop.relational.link_examples import label_pairs

if TYPE_CHECKING:
    import pyarrow as pa

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


def measure_links(metric: str, labels: pa.ChunkedArray | pa.Array, links: Links) -> float:
    """The value of a link metric at k, as RelBench defines it: the mean over the examples that have links at all.

    Args:
        metric: `map_at_12`, `precision_at_10`, `recall_at_100`, for any k.
        labels: (N,) lists of the keys that each example was linked to; one named twice counts once.
        links: what was predicted.

    Returns:
        NaN where no example has links.
    """
    return float(np.mean(values)) if len(values := link_values(metric, labels, links)) else float("nan")


def link_values(metric: str, labels: pa.ChunkedArray | pa.Array, links: Links) -> NDArray[np.float64]:
    """What `measure_links` is the mean of: a value for each example that has links, in their order."""
    name, _, k = metric.partition("_at_")
    hits, true = _hits(labels, links, int(k))
    hits, true = hits[true > 0], true[true > 0]
    if name == "precision":
        return np.asarray(hits.sum(1) / int(k))
    if name == "recall":
        return np.asarray(hits.sum(1) / true)
    precisions = hits.cumsum(1) / np.arange(1, int(k) + 1)
    return np.asarray((precisions * hits).sum(1) / np.minimum(true, int(k)))


def _hits(labels: pa.ChunkedArray | pa.Array, links: Links, k: int) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Which of the first k predictions are true, (N, k), and how many links each example has, (N,)."""
    import pyarrow.compute as pc

    count, width = links.scores.shape
    at, keys = label_pairs(labels)
    known = pc.unique(keys)
    # An example and a key as one number, so that pairs compare at once.
    pairs = np.unique(at * (len(known) + 1) + pc.index_in(keys, known).to_numpy())
    guesses = pc.index_in(pc.cast(links.keys, keys.type), known, skip_nulls=True)
    guessed = pc.fill_null(guesses, len(known)).to_numpy().reshape(count, width)[:, :k].astype(np.int64)
    right = np.isin(np.arange(count)[:, None] * (len(known) + 1) + guessed, pairs) & (guessed < len(known))
    hits = np.zeros((count, k), bool)
    hits[:, : right.shape[1]] = right
    return hits, np.bincount(pairs // (len(known) + 1), minlength=count)
