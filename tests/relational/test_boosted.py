"""Trees learn what is there to learn, of every task type."""

import numpy as np
import pytest

from tuneloop.relational.boosted import Labels, default_params, fit_trees
from tuneloop.relational.features import Feature, Features
from tuneloop.relational.metrics import measure
from tuneloop.relational.schema import METRICS, NodeTaskType

COLUMNS = (Feature("a", "a", "t"), Feature("b", "b", "t", codes=("x", "y", "z")), Feature("noise", "noise", "t"))


def make(rows: int, seed: int, task_type: str) -> tuple[Features, Labels]:
    rng = np.random.default_rng(seed)
    values = np.column_stack([rng.normal(size=rows), rng.integers(0, 3, rows), rng.normal(size=rows)])
    signal = values[:, 0] + (values[:, 1] == 1)
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
    train, validation, test = (make(rows, seed, task_type) for seed, rows in enumerate((1500, 400, 400)))
    rounds: list[int] = []
    trees = fit_trees(
        task_type,
        metric,
        train,
        validation,
        default_params(),
        seed=0,
        report=lambda number, values: rounds.append(number),
    )
    value = measure(metric, test[1].values, trees.predict(test[0].values))
    assert value < GOOD[metric] if metric == "mae" else value > GOOD[metric]
    assert rounds[0] == 1 and len(rounds) >= trees.best_rounds
    importances = trees.importances()
    assert importances.sum() == pytest.approx(1)
    assert importances[0] > importances[2]


def test_the_same_seed_gives_the_same_trees_and_bags_average(rows: int = 600) -> None:
    train, validation = (make(rows, seed, "binary_classification") for seed in (0, 1))

    def predict(seed: int, bags: int) -> np.ndarray:
        params = default_params() | {"bags": bags}
        trees = fit_trees("binary_classification", "roc_auc", train, None, params, seed=seed, rounds=30)
        return trees.predict(validation[0].values)

    np.testing.assert_array_equal(predict(0, 1), predict(0, 1))
    assert (predict(0, 1) != predict(1, 1)).any()
    singles = [
        fit_trees("binary_classification", "roc_auc", train, None, default_params() | {"bags": 2}, seed=3, rounds=30)
    ]
    each = [booster.predict(validation[0].values) for booster in singles[0].boosters[0]]
    np.testing.assert_allclose(predict(3, 2), np.mean(each, axis=0))


def test_weights_count(rows: int = 800) -> None:
    features, labels = make(rows, 0, "binary_classification")
    flipped = Labels(np.concatenate([labels.values[: rows // 2], 1 - labels.values[rows // 2 :]]))
    weights = np.repeat([1.0, 0.01], rows // 2)
    trees = fit_trees(
        "binary_classification",
        "roc_auc",
        (features, flipped),
        None,
        default_params(),
        seed=0,
        rounds=50,
        weights=weights,
    )
    assert measure("roc_auc", labels.values, trees.predict(features.values)) > 0.9
