"""Gradient boosted trees over an example's features (LightGBM)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tuneloop.relational.features import Features
from tuneloop.relational.schema import NodeTaskType

if TYPE_CHECKING:
    import lightgbm as lgb

MAX_ROUNDS = 3000
PATIENCE = 100  # rounds without a better validation metric
LEAST = 20  # a few rounds may look good by chance
SMOOTHED = 10  # rounds whose mean tells how good one is
# LightGBM's own names, for early stopping.
_METRICS = {
    "roc_auc": "auc",
    "average_precision": "average_precision",
    "mae": "l1",
    "rmse": "rmse",
    "r2": "rmse",
    "mape": "mape",
}
_LIKELIHOOD = {
    "binary_classification": "binary_logloss",
    "multiclass_classification": "multi_logloss",
    "multilabel_classification": "binary_logloss",
    "regression": "l1",
}
Report = Callable[[int, Mapping[str, float]], None]


@dataclass(frozen=True)
class Labels:
    """Labels as numbers: (N,) of 0 and 1, class numbers or values; (N, C) of 0 and 1 for several labels."""

    values: NDArray[np.float64]
    classes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Trees:
    """Fitted trees: for each label one or more boosters, whose predictions are averaged."""

    boosters: tuple[tuple[lgb.Booster, ...], ...]
    task_type: NodeTaskType
    best_rounds: int

    def predict(self, values: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Probabilities or numbers, (N,), or (N, C) of classes or several labels."""
        found = [np.mean([booster.predict(values) for booster in bag], axis=0) for bag in self.boosters]
        return np.stack(found, axis=1) if self.task_type == "multilabel_classification" else found[0]

    def importances(self) -> NDArray[np.float64]:
        """The gain by feature, (F,), summing to one."""
        gains = [booster.feature_importance("gain") for bag in self.boosters for booster in bag]
        total = np.sum(gains, axis=0)
        return np.asarray(total / max(total.sum(), 1e-12))


def default_params() -> dict[str, Any]:
    """Settings that work on most tables."""
    return {
        "num_leaves": 16,
        "learning_rate": 0.03,
        "min_data_in_leaf": 30,
        "feature_fraction": 0.3,
        "bagging_fraction": 0.8,
        "lambda_l2": 5.0,
        "extra_trees": False,
        "bags": 1,
    }


def fit_trees(
    task_type: NodeTaskType,
    metric: str,
    train: tuple[Features, Labels],
    validation: tuple[Features, Labels] | None,
    params: Mapping[str, Any],
    *,
    seed: int,
    rounds: int | None = None,
    weights: NDArray[np.float64] | None = None,
    report: Report = lambda round, values: None,
) -> Trees:
    """Fit trees.

    Args:
        task_type: what the labels are.
        metric: what decides when to stop.
        train: features and labels.
        validation: stops early by these; without them `rounds` are fitted.
        params: as in `default_params`.
        seed: of bagging and of the choice of features.
        rounds: how many, at most.
        weights: of the training examples.
        report: called after each round with the validation metric that decides, `val_…` and LightGBM's name of it.
    """
    features, labels = train
    columns = labels.values.T if task_type == "multilabel_classification" else [labels.values]
    bags, most = [], 0
    for number, column in enumerate(columns):
        held = None
        if validation is not None:
            held_values = validation[1].values
            held = (validation[0], held_values[:, number] if held_values.ndim == 2 else held_values)
        bag = []
        for each in range(int(params.get("bags", 1))):
            booster = _fit_one(
                _settings(task_type, metric, params, seed * 1000 + each, len(labels.classes)),
                features,
                column,
                held,
                rounds or MAX_ROUNDS,
                weights,
                report if not each and not number else lambda round, values: None,
            )
            most = max(most, booster.best_iteration or booster.current_iteration())
            bag.append(booster)
        bags.append(tuple(bag))
    return Trees(tuple(bags), task_type, most)


def _fit_one(
    settings: dict[str, Any],
    features: Features,
    labels: NDArray[np.float64],
    held: tuple[Features, NDArray[np.float64]] | None,
    rounds: int,
    weights: NDArray[np.float64] | None,
    report: Report,
) -> lgb.Booster:
    library = _lightgbm()
    codes = [number for number, each in enumerate(features.columns) if each.codes]
    data = library.Dataset(
        features.values,
        labels,
        weight=weights,
        feature_name=[f"f{number}" for number in range(len(features.columns))],
        categorical_feature=codes,
        params={"verbosity": -1, "max_bin": settings["max_bin"]},
        free_raw_data=True,
    )
    watched: dict[str, Any] = {}
    if held is not None:
        valid = data.create_valid(held[0].values, held[1])
        watched = {"valid_sets": [valid], "valid_names": ["val"], "callbacks": [_Stop(report)]}
    booster: lgb.Booster = library.train(settings, data, rounds, **watched)
    return booster


class _Stop:
    """A callback that stops when the validation metric, smoothed over rounds, no longer becomes better."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._values: list[float] = []
        self._best = (-float("inf"), 0)

    def __call__(self, env: Any) -> None:
        _, name, value, higher = env.evaluation_result_list[0]
        self._report(env.iteration + 1, {f"val_{name}": value})
        self._values.append(value if higher else -value)
        rounds = len(self._values)
        smooth = sum(self._values[-SMOOTHED:]) / min(rounds, SMOOTHED)
        if rounds >= LEAST and smooth > self._best[0]:
            self._best = smooth, rounds
        if rounds >= self._best[1] + PATIENCE or rounds == env.end_iteration:
            raise _lightgbm().callback.EarlyStopException(max(self._best[1] - 1, 0), env.evaluation_result_list)


def _lightgbm() -> Any:
    """LightGBM. Its wheel brings no OpenMP library; where the system has none either, PyTorch's serves both."""
    try:
        import lightgbm
    except OSError:
        import_module("torch")
        import lightgbm
    return lightgbm


def _settings(task_type: str, metric: str, params: Mapping[str, Any], seed: int, classes: int) -> dict[str, Any]:
    objective = {"multiclass_classification": "multiclass", "regression": _regression(metric)}.get(task_type, "binary")
    settings: dict[str, Any] = {
        name: params[name]
        for name in (
            "num_leaves",
            "learning_rate",
            "min_data_in_leaf",
            "feature_fraction",
            "bagging_fraction",
            "lambda_l2",
            "extra_trees",
        )
        if name in params
    }
    settings |= {
        "objective": objective,
        "metric": _METRICS.get(metric, _LIKELIHOOD[task_type]),
        "bagging_freq": 1,
        "seed": seed,
        "deterministic": True,
        "force_col_wise": True,
        "verbosity": -1,
        "max_bin": 255,
        "cat_smooth": 20,
    }
    if objective == "multiclass":
        settings["num_class"] = classes
    return settings


def _regression(metric: str) -> str:
    return "regression_l1" if metric in ("mae", "mape") else "regression"
