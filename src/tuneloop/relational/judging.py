"""How good predictions of a task are, whatever its type."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tuneloop.relational.bootstrap import Interval, Statistic, interval, mean_statistic, statistic
from tuneloop.relational.examples import Examples
from tuneloop.relational.labels import label_values
from tuneloop.relational.learner import Links, Predictions
from tuneloop.relational.metrics import measure
from tuneloop.relational.schema import DEFAULT_LINK_METRIC, LINK_METRICS, METRICS, LinkTask, NodeTask

Task = NodeTask | LinkTask
LINK_KS = (1, 5, 10, 12, 20, 50, 100)


def value_of(task: Task, metric: str, examples: Examples, predictions: Predictions, classes: tuple[str, ...]) -> float:
    """A metric of the predictions of examples; NaN where it is not defined."""
    assert examples.labels is not None
    if isinstance(predictions, Links):
        from tuneloop.relational.metrics import measure_links

        return measure_links(metric, examples.labels, predictions)
    assert isinstance(task, NodeTask)
    return measure(metric, label_values(task, examples.labels, classes), predictions)


def statistic_of(
    task: Task, metric: str, examples: Examples, predictions: Predictions, classes: tuple[str, ...]
) -> Statistic:
    """The same as a function of the weights of those examples that `weighed` names."""
    assert examples.labels is not None
    if isinstance(predictions, Links):
        from tuneloop.relational.metrics import link_values

        return mean_statistic(link_values(metric, examples.labels, predictions))
    assert isinstance(task, NodeTask)
    return statistic(metric, label_values(task, examples.labels, classes), predictions)


def weighed(task: Task, examples: Examples) -> NDArray[np.int64]:
    """Whom each example is about that metrics look at, as numbers: of link tasks those that have links at all."""
    entities = entity_numbers(examples)
    if isinstance(task, NodeTask):
        return entities
    from tuneloop.relational.link_examples import label_pairs

    assert examples.labels is not None
    linked = np.unique(label_pairs(examples.labels)[0])
    return np.asarray(entities[linked])


def intervals_of(
    task: Task, examples: Examples, predictions: Predictions, classes: tuple[str, ...]
) -> dict[str, Interval]:
    """All metrics of the task's type, the one that decides first."""
    entities = weighed(task, examples)
    return {
        metric: interval(statistic_of(task, metric, examples, predictions, classes), entities)
        for metric in metrics_of(task)
    }


def metrics_of(task: Task) -> tuple[str, ...]:
    """The metrics that a task of this type is judged by, the one that decides first."""
    if isinstance(task, NodeTask):
        known = METRICS[task.task_type]
    else:
        k = task.k
        known = tuple(f"{name}_at_{k}" for name in LINK_METRICS)
        if DEFAULT_LINK_METRIC not in known:
            known += (DEFAULT_LINK_METRIC,)
    return (task.evaluation_metric, *(name for name in known if name != task.evaluation_metric))


def entity_numbers(examples: Examples) -> NDArray[np.int64]:
    """Whom each example is about, as numbers."""
    codes: Any = examples.keys.combine_chunks().dictionary_encode(null_encoding="encode")
    return np.asarray(codes.indices.to_numpy(), np.int64)
