"""Trees learn what is there to learn, of every task type."""

import numpy as np
import pytest

from tuneloop.relational.boosted import Labels, Pool, Split, Trees, default_params, fit_all, fit_trees
from tuneloop.relational.feature_queries import Feature
from tuneloop.relational.features import Features
from tuneloop.relational.metrics import measure
from tuneloop.relational.schema import METRICS, NodeTaskType

QUICK = default_params() | {"learning_rate": 0.15, "feature_fraction": 1.0}
COLUMNS = (Feature("a", "a", "t"), Feature("b", "b", "t", codes=("x", "y", "z")), Feature("noise", "noise", "t"))


def make(rows: int, seed: int, task_type: str) -> tuple[Features, Labels]:
    rng = np.random.default_rng(seed)
    values = np.column_stack([rng.normal(size=rows), rng.integers(0, 3, rows), rng.normal(size=rows)])
    signal = values[:, 0] + (values[:, 1] == 1) + rng.normal(0, 0.2, rows)
    values[rng.random(values.shape) < 0.05] = np.nan
    features = Features(values.astype(np.float32), COLUMNS)
    if task_type == "regression":
        return features, Labels(signal)
    if task_type == "multiclass_classification":
        return features, Labels(np.digitize(signal, [0, 1]).astype(float), ("a", "b", "c"))
    if task_type == "multilabel_classification":
        return features, Labels(np.column_stack([signal > 0, signal > 1]).astype(float), ("a", "b"))
    return features, Labels((signal > 0.5).astype(float))


GOOD = {"roc_auc": 0.9, "macro_f1": 0.8, "multilabel_auprc_macro": 0.85, "mae": 0.3}


@pytest.mark.parametrize("task_type", METRICS)
def test_trees_learn_and_say_from_what(task_type: NodeTaskType) -> None:
    metric = METRICS[task_type][0]
    pool, test = Pool(*make(1200, 0, task_type)), make(400, 1, task_type)
    splits = [Split(np.arange(600), np.arange(600, 900)), Split(np.arange(900), np.arange(900, 1200))]
    rounds: list[int] = []
    found = fit_trees(
        task_type,
        metric,
        pool,
        splits,
        QUICK,
        seed=0,
        report=lambda number, values: rounds.append(number),
    )
    assert len(found) == 2
    for trees in found:
        value = measure(metric, test[1].values, trees.predict(test[0].values))
        assert value < GOOD[metric] if metric == "mae" else value > GOOD[metric]
        assert rounds[0] == 1 and len(rounds) >= trees.best_rounds
        importances = trees.importances()
        assert importances.sum() == pytest.approx(1)
        assert importances[0] > importances[2]


def test_what_is_held_is_not_learnt_from() -> None:
    features, labels = make(1500, 0, "binary_classification")
    odd = Labels(np.concatenate([labels.values[:1000], 1 - labels.values[1000:]]))
    split = Split(np.arange(1000), np.arange(1000, 1500))
    trees = fit_trees("binary_classification", "roc_auc", Pool(features, odd), [split], QUICK, seed=0)[0]
    assert measure("roc_auc", odd.values[1000:], trees.predict(features.values[1000:])) < 0.2


def test_the_same_seed_gives_the_same_trees_and_bags_average(rows: int = 600) -> None:
    train, held = (make(rows, seed, "binary_classification") for seed in (0, 1))

    def fit(seed: int, bags: int) -> Trees:
        params = default_params() | {"bags": bags}
        return fit_all("binary_classification", "roc_auc", Pool(*train), params, seed=seed, rounds=30)

    def predict(seed: int, bags: int) -> np.ndarray:
        return fit(seed, bags).predict(held[0].values)

    np.testing.assert_array_equal(predict(0, 1), predict(0, 1))
    assert (predict(0, 1) != predict(1, 1)).any()
    each = [booster.predict(held[0].values) for booster in fit(3, 2).boosters[0]]
    assert (each[0] != each[1]).any()
    np.testing.assert_allclose(predict(3, 2), np.mean(each, axis=0))


def test_weights_count(rows: int = 800) -> None:
    features, labels = make(rows, 0, "binary_classification")
    flipped = Labels(np.concatenate([labels.values[: rows // 2], 1 - labels.values[rows // 2 :]]))
    trees = fit_all(
        "binary_classification",
        "roc_auc",
        Pool(features, flipped),
        default_params(),
        seed=0,
        rounds=50,
        weights=np.repeat([1.0, 0.01], rows // 2),
    )
    assert measure("roc_auc", labels.values, trees.predict(features.values)) > 0.9
