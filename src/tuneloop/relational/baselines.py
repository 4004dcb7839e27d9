"""What one would predict without looking at anybody: the same for all, from the training labels alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tuneloop.relational.examples import Examples
from tuneloop.relational.labels import label_values
from tuneloop.relational.learner import Links, Predictions
from tuneloop.relational.schema import MAX_K, LinkTask, NodeTask

WORDS = {
    "regression": "the median of the training labels for everybody",
    "binary_classification": "the share of ones among the training labels for everybody",
    "multiclass_classification": "the share of each class among the training labels for everybody",
    "multilabel_classification": "the share of each label in the training examples for everybody",
    "link_prediction": "what was linked to most often in the training examples, for everybody",
    "repeated_link_prediction": "what was linked to most often in the training examples, for everybody",
}


def baseline(task: NodeTask | LinkTask, train: Examples, count: int, classes: tuple[str, ...]) -> Predictions:
    """The same prediction for so many examples."""
    assert train.labels is not None
    if isinstance(task, LinkTask):
        return _most_popular(task, train, count)
    labels = label_values(task, train.labels, classes)
    if task.task_type == "regression":
        return np.full(count, float(np.median(labels)))
    if task.task_type == "multiclass_classification":
        shares: NDArray[np.float64] = np.bincount(labels.astype(int), minlength=len(classes)) / len(labels)
        return np.tile(shares, (count, 1))
    share = labels.mean(0)
    return np.tile(share, (count, 1)) if labels.ndim == 2 else np.full(count, float(share))


def _most_popular(task: LinkTask, train: Examples, count: int) -> Links:
    import pyarrow as pa

    from tuneloop.relational.link_examples import label_pairs

    assert train.labels is not None
    keys = label_pairs(train.labels)[1]
    counts = keys.value_counts()
    values, often = counts.field("values"), counts.field("counts").to_numpy()
    # Of equally popular ones the smaller key, so that the choice is always the same.
    order = pa.table({"key": values, "often": -often}).sort_by([("often", "ascending"), ("key", "ascending")])
    top = order["key"].combine_chunks()[: min(MAX_K, max(task.k, 100))]
    scores = -order["often"].to_numpy()[: len(top)].astype(float)
    return Links(top.take(pa.array(np.tile(np.arange(len(top)), count))), np.tile(scores, (count, 1)))
