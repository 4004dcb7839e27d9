"""Lines learn what rises and falls evenly, of every task type, and keep to what they know."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuneloop.relational.boosted import Labels
from tuneloop.relational.feature_queries import Feature
from tuneloop.relational.features import Features
from tuneloop.relational.linear import MAX_EXAMPLES, Linear, Scale, fit_linear
from tuneloop.relational.metrics import measure
from tuneloop.relational.schema import METRICS, NodeTaskType

COLUMNS = (
    Feature("a", "a", "t"),
    Feature("b", "b", "t", codes=("x", "y", "z")),
    Feature("steep", "steep", "t"),
    Feature("noise", "noise", "t"),
    Feature("same", "same", "t"),
    Feature("rare", "rare", "t"),
)
GOOD = {"roc_auc": 0.95, "macro_f1": 0.75, "multilabel_auprc_macro": 0.9, "mae": 0.35}


def make(rows: int, seed: int, task_type: str) -> tuple[Features, Labels]:
    """What counts is a feature, and the logarithm of another; others say nothing, or stand for something else."""
    rng = np.random.default_rng(seed)
    a, steep = rng.normal(size=(2, rows))
    rare = np.where(rng.random(rows) < 0.02, 1e30, np.nan)
    columns = [a, rng.integers(0, 3, rows), np.exp(5 * steep), rng.normal(size=rows), np.full(rows, 7.0), rare]
    values = np.column_stack(columns)
    values[:, :4][rng.random((rows, 4)) < 0.02] = np.nan
    features = Features(values.astype(np.float32), COLUMNS)
    signal = a + 0.5 * steep
    if task_type == "regression":
        return features, Labels(signal)
    if task_type == "multiclass_classification":
        return features, Labels(np.digitize(signal, [-0.5, 0.5]).astype(float), ("a", "b", "c"))
    if task_type == "multilabel_classification":
        return features, Labels(np.column_stack([signal > 0, signal > 1]).astype(float), ("a", "b"))
    return features, Labels((signal > 0.5).astype(float))


@pytest.mark.parametrize("task_type", METRICS)
def test_lines_learn_are_read_again_and_say_from_what(task_type: NodeTaskType, tmp_path: Path) -> None:
    metric = METRICS[task_type][0]
    test, labels = make(500, 1, task_type)
    line = fit_linear(task_type, *make(1000, 0, task_type), 30.0, seed=0)
    found = line.predict(test.values)
    value = measure(metric, labels.values, found)
    assert value < GOOD[metric] if metric == "mae" else value > GOOD[metric]
    if task_type != "regression":
        assert found.min() >= 0 and found.max() <= 1
    if task_type == "multiclass_classification":
        np.testing.assert_allclose(found.sum(axis=1), 1)
    alone = np.concatenate([line.predict(test.values[place : place + 1]) for place in range(20)])
    np.testing.assert_array_equal(alone, found[:20])  # whatever stands beside them
    line.save(tmp_path / "line.safetensors")
    np.testing.assert_array_equal(Linear.load(tmp_path / "line.safetensors", task_type).predict(test.values), found)
    importances = line.importances()
    assert importances.sum() == pytest.approx(1)
    assert importances[0] > importances[2] > importances[3]
    assert not importances[[1, 4, 5]].any()


@given(
    known=st.lists(
        st.one_of(st.floats(width=32, allow_infinity=False), st.just(float("nan"))), min_size=1, max_size=60
    ),
    asked=st.lists(st.floats(width=32), min_size=2, max_size=20),
)
def test_scores_rise_with_values_within_bounds(known: list[float], asked: list[float]) -> None:
    scale = Scale.of(Features(np.array(known, np.float32)[:, None], COLUMNS[:1]))
    order = np.sort(np.array(asked, np.float32))
    scores = scale(order[:, None])[:, 0]
    assert np.isfinite(scores).all() and np.abs(scores).max() <= 2.5
    assert (np.diff(scores[~np.isnan(order)]) >= 0).all()
    assert not scores[np.isnan(order)].any()


def test_a_label_that_is_always_the_same_is_expected_again() -> None:
    features, _ = make(200, 0, "multilabel_classification")
    labels = Labels(np.column_stack([np.ones(200), features.values[:, 3] > 0]), ("a", "b"))
    found = fit_linear("multilabel_classification", features, labels, 10.0, seed=0).predict(features.values)
    assert (found[:, 0] > 0.99).all() and found[:, 1].std() > 0.1


def test_weights_count_and_so_do_all_examples_of_many() -> None:
    features, labels = make(MAX_EXAMPLES + 2000, 0, "regression")
    half = np.arange(len(labels.values)) % 2 == 0
    odd = Labels(np.where(half, labels.values, -labels.values))
    for kept, sign in ((half, 1), (~half, -1)):
        line = fit_linear("regression", features, odd, 100.0, seed=0, weights=np.where(kept, 1.0, 1e-6))
        assert sign * np.corrcoef(line.predict(features.values), labels.values)[0, 1] > 0.95
