"""Metrics are what their names say, worked out by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuneloop.relational.metrics import measure
from tuneloop.relational.schema import METRICS, SMALLER_IS_BETTER

BINARY = np.array([0.0, 1, 1, 0, 1]), np.array([0.1, 0.8, 0.4, 0.6, 0.9])


@pytest.mark.parametrize(
    ("metric", "value"),
    [
        ("accuracy", 3 / 5),
        ("precision", 2 / 3),
        ("recall", 2 / 3),
        ("f1", 2 / 3),
        ("roc_auc", 5 / 6),
        ("average_precision", (1 + 1 + 3 / 4) / 3),
    ],
)
def test_binary(metric: str, value: float) -> None:
    assert measure(metric, *BINARY) == pytest.approx(value)


def test_classes() -> None:
    labels = np.array([0, 1, 2, 2])
    predictions = np.array([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.1, 0.6, 0.3], [0.0, 0.1, 0.9]])
    assert measure("accuracy", labels, predictions) == 3 / 4
    assert measure("micro_f1", labels, predictions) == 3 / 4
    assert measure("macro_f1", labels, predictions) == pytest.approx((1 + 2 / 3 + 2 / 3) / 3)


def test_several_labels() -> None:
    labels = np.array([[1, 0], [0, 1], [1, 1]])
    predictions = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
    assert measure("multilabel_auroc_macro", labels, predictions) == 1.0
    assert measure("multilabel_auprc_macro", labels, predictions) == 1.0
    assert measure("multilabel_precision_micro", labels, predictions) == 1.0
    assert measure("multilabel_precision_macro", labels, predictions) == 1.0
    assert measure("multilabel_auroc_micro", labels, predictions) == 1.0


@given(st.lists(st.tuples(st.floats(-100, 100), st.floats(-100, 100)), min_size=2, max_size=30))
def test_errors_of_numbers(pairs: list[tuple[float, float]]) -> None:
    labels, predictions = np.array(pairs).T
    errors = [abs(a - b) for a, b in pairs]
    assert measure("mae", labels, predictions) == pytest.approx(sum(errors) / len(errors))
    assert measure("rmse", labels, predictions) == pytest.approx(math.sqrt(sum(e * e for e in errors) / len(errors)))


def test_a_metric_that_is_not_defined_is_nan() -> None:
    assert math.isnan(measure("roc_auc", np.ones(3), np.array([0.1, 0.2, 0.3])))
    assert math.isnan(measure("multilabel_auroc_macro", np.ones((3, 2)), np.full((3, 2), 0.5)))


@pytest.mark.parametrize("metric", [name for names in METRICS.values() for name in names])
def test_every_metric_prefers_what_is_right(metric: str) -> None:
    rng = np.random.default_rng(0)
    if metric.startswith("multilabel"):
        labels = rng.integers(0, 2, (60, 3)).astype(float)
        right, wrong = labels, 1 - labels
    elif metric in ("macro_f1", "micro_f1"):
        labels = rng.integers(0, 3, 60).astype(float)
        right, wrong = np.eye(3)[labels.astype(int)], np.eye(3)[(labels.astype(int) + 1) % 3]
    elif metric in METRICS["regression"]:
        labels = rng.uniform(1, 2, 60)
        right, wrong = labels, labels[::-1]
    else:
        labels = rng.integers(0, 2, 60).astype(float)
        right, wrong = labels, 1 - labels
    better, worse = measure(metric, labels, right), measure(metric, labels, wrong)
    assert better < worse if metric in SMALLER_IS_BETTER else better > worse
