"""Metrics with weights are scikit-learn's, and their intervals hold what they should."""

import numpy as np
import pytest

from tuneloop.relational.bootstrap import interval, statistic
from tuneloop.relational.metrics import measure
from tuneloop.relational.schema import METRICS

ROWS = 300


def made_up(task_type: str, seed: int = 0, rows: int = ROWS):
    """Labels, and predictions that know something of them, with ties."""
    rng = np.random.default_rng(seed)
    if task_type == "regression":
        labels = rng.normal(5, 2, rows)
        return labels, (labels + rng.normal(0, 1, rows)).round(1)
    if task_type == "multiclass_classification":
        labels = rng.integers(0, 4, rows).astype(float)
        return labels, rng.dirichlet(np.ones(5), rows) + 0.4 * np.eye(5)[labels.astype(int)]
    if task_type == "multilabel_classification":
        labels = (rng.random((rows, 3)) < [0.5, 0.2, 0.1]).astype(float)
        return labels, (0.3 * labels + 0.6 * rng.random((rows, 3))).round(2)
    labels = (rng.random(rows) < 0.3).astype(float)
    return labels, (0.3 * labels + 0.6 * rng.random(rows)).round(2)


@pytest.mark.parametrize(("task_type", "metric"), [(t, m) for t, names in METRICS.items() for m in names])
def test_whole_weights_are_copies(task_type: str, metric: str) -> None:
    labels, predictions = made_up(task_type)
    assert statistic(metric, labels, predictions)(np.ones(ROWS)) == pytest.approx(measure(metric, labels, predictions))
    copies = np.random.default_rng(1).integers(0, 4, ROWS)
    rows = np.repeat(np.arange(ROWS), copies)
    expected = measure(metric, labels[rows], predictions[rows])
    assert statistic(metric, labels, predictions)(copies.astype(float)) == pytest.approx(expected)


@pytest.mark.parametrize("metric", METRICS["binary_classification"])
def test_a_metric_that_is_not_defined_is_nan(metric: str) -> None:
    labels, predictions = np.zeros(20), np.linspace(0, 0.4, 20)
    found = interval(statistic(metric, labels, predictions), np.arange(20))
    assert found.value == pytest.approx(measure(metric, labels, predictions), nan_ok=True)


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    truth = statistic("roc_auc", *made_up("binary_classification", 99, 200_000))(np.ones(200_000))
    held = 0
    for seed in range(60):
        found = interval(statistic("roc_auc", *made_up("binary_classification", seed, 120)), np.arange(120))
        held += found.low <= truth <= found.high
    assert held >= 51  # 57 of 60 expected


def test_examples_of_one_entity_count_as_one() -> None:
    labels, predictions = made_up("binary_classification")
    four = [np.tile(each, 4) for each in (labels, predictions)]
    entities = np.tile(np.arange(ROWS), 4)
    alone = interval(statistic("roc_auc", labels, predictions), np.arange(ROWS))
    together = interval(statistic("roc_auc", *four), entities)
    assert together.high - together.low == pytest.approx(alone.high - alone.low, rel=0.1)
    apart = interval(statistic("roc_auc", *four), np.arange(4 * ROWS))
    assert apart.high - apart.low < 0.7 * (together.high - together.low)


def test_one_entity_gives_no_interval() -> None:
    found = interval(statistic("mae", *made_up("regression")), np.zeros(ROWS, int))
    assert found.value > 0 and np.isnan(found.low) and np.isnan(found.high)
