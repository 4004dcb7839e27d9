"""Gradient boosted trees over an example's features (LightGBM)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tuneloop.relational.features import Features
from tuneloop.relational.schema import NodeTaskType

if TYPE_CHECKING:
    import lightgbm as lgb

MAX_ROUNDS = 3000
PATIENCE = 60  # rounds without a better validation metric
LEAST = 20  # a few rounds may look good by chance
MAX_BIN = 63
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
WATCHED = frozenset(("roc_auc", "average_precision", "mae", "rmse"))  # what these measure is the task's own metric
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
        "learning_rate": 0.05,
        "min_data_in_leaf": 30,
        "feature_fraction": 0.2,
        "bagging_fraction": 0.8,
        "lambda_l2": 5.0,
        "extra_trees": False,
        "bags": 1,
    }


@dataclass(frozen=True)
class Split:
    """Which rows are learnt from, and which tell when to stop: their numbers, rising."""

    train: NDArray[np.int64]
    held: NDArray[np.int64]


class Pool:
    """Rows, binned once for many fits.

    Args:
        features: (N, F).
        labels: of the rows.
        reference: rows that say where the bins begin, (R,) of row numbers; all by default.
    """

    def __init__(
        self,
        features: Features,
        labels: Labels,
        reference: NDArray[np.int64] | None = None,
    ) -> None:
        self.labels = labels
        self.values = features.values
        codes = [at for at, each in enumerate(features.columns) if each.codes]
        made = {"categorical_feature": codes, "params": {"verbosity": -1, "max_bin": MAX_BIN}}
        library = _lightgbm()
        bins = None
        if reference is not None:
            bins = library.Dataset(self.values[reference], **made)
        self._data = library.Dataset(self.values, self.column(0), reference=bins, free_raw_data=False, **made)
        self._data.construct()

    def column(self, number: int) -> NDArray[np.float64]:
        """The labels as one column, (N,): those of a number where there are several."""
        values = self.labels.values
        return values[:, number] if values.ndim == 2 else values

    def part(self, rows: NDArray[np.int64], number: int, weights: NDArray[np.float64] | None = None) -> lgb.Dataset:
        """Some rows with a column of labels."""
        part: lgb.Dataset = self._data.subset(rows)
        part.construct()
        part.set_label(self.column(number)[rows])
        if weights is not None:
            part.set_weight(weights[rows] / weights[rows].mean())
        return part


def fit_trees(
    task_type: NodeTaskType,
    metric: str,
    pool: Pool,
    splits: Sequence[Split],
    params: Mapping[str, Any],
    *,
    seed: int,
    weights: NDArray[np.float64] | None = None,
    report: Report = lambda round, values: None,
) -> list[Trees]:
    """Fit trees on each split, a round of all at a time; stop when their mean metric no longer becomes better.

    Args:
        task_type: what the labels are.
        metric: what decides when to stop.
        pool: features and labels.
        splits: what is learnt from and what tells when to stop.
        params: as in `default_params`; of the bags one is fitted.
        seed: of bagging and of the choice of features.
        weights: of the rows, (N,).
        report: called after each round with the metric that decides, `val_…` and LightGBM's name of it.

    Returns:
        The trees of each split, as many rounds as were best.
    """
    count = pool.labels.values.shape[1] if task_type == "multilabel_classification" else 1
    settings = _settings(task_type, metric, params, seed * 1000, len(pool.labels.classes))
    found = [
        _side_by_side(settings, pool, splits, number, weights, report if not number else lambda round, values: None)
        for number in range(count)
    ]
    most = max(boosters[0].current_iteration() for boosters in found)
    return [Trees(tuple((boosters[at],) for boosters in found), task_type, most) for at in range(len(splits))]


def fit_all(
    task_type: NodeTaskType,
    metric: str,
    pool: Pool,
    params: Mapping[str, Any],
    *,
    seed: int,
    rounds: int,
    weights: NDArray[np.float64] | None = None,
    check: Callable[[], None] = lambda: None,
) -> Trees:
    """Fit trees on all rows, so many rounds; as `fit_trees`, with all the bags."""
    count = pool.labels.values.shape[1] if task_type == "multilabel_classification" else 1
    everything = np.arange(len(pool.values))
    bags = []
    for number in range(count):
        bag = []
        for each in range(int(params.get("bags", 1))):
            settings = _settings(task_type, metric, params, seed * 1000 + each, len(pool.labels.classes))
            booster = _lightgbm().Booster(settings, pool.part(everything, number, weights))
            for _ in range(rounds):
                booster.update()
                check()
            bag.append(booster.free_dataset())
        bags.append(tuple(bag))
    return Trees(tuple(bags), task_type, rounds)


def _side_by_side(
    settings: dict[str, Any],
    pool: Pool,
    splits: Sequence[Split],
    number: int,
    weights: NDArray[np.float64] | None,
    report: Report,
) -> list[lgb.Booster]:
    boosters = []
    for split in splits:
        booster = _lightgbm().Booster(settings, pool.part(split.train, number, weights))
        boosters.append(booster.add_valid(pool.part(split.held, number), "val"))
    values: list[float] = []
    best, best_rounds = -float("inf"), 1
    while len(values) < MAX_ROUNDS and len(values) < best_rounds + PATIENCE:
        found = []
        for booster in boosters:
            booster.update()
            found.append(booster.eval_valid()[0])
        _, name, _, higher = found[0]
        value = float(np.mean([each[2] for each in found]))
        values.append(value if higher else -value)
        report(len(values), {f"val_{name}": value})
        smooth = float(np.mean(values[-SMOOTHED:]))
        if len(values) >= LEAST and smooth > best:
            best, best_rounds = smooth, len(values)
    return [_first_rounds(booster, best_rounds) for booster in boosters]


def _first_rounds(booster: lgb.Booster, rounds: int) -> lgb.Booster:
    text = booster.model_to_string(num_iteration=rounds)
    cut: lgb.Booster = _lightgbm().Booster(model_str=text)
    return cut


def load_booster(path: Path) -> lgb.Booster:
    """A booster from its text."""
    booster: lgb.Booster = _lightgbm().Booster(model_str=path.read_text(encoding="utf-8"))
    return booster


def _lightgbm() -> Any:
    """LightGBM. Its wheel brings no OpenMP library; where the system has none either, PyTorch's serves both."""
    try:
        import lightgbm
    except OSError:
        import_module("torch")
        import lightgbm
    return lightgbm


def _settings(task_type: str, metric: str, params: Mapping[str, Any], seed: int, classes: int) -> dict[str, Any]:
    regression = params.get("objective") or _regression(metric)
    objective = {"multiclass_classification": "multiclass", "regression": regression}.get(task_type, "binary")
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
        "max_bin": MAX_BIN,
        "cat_smooth": 20,
    }
    if objective == "multiclass":
        settings["num_class"] = classes
    return settings


def _regression(metric: str) -> str:
    return "regression_l1" if metric in ("mae", "mape") else "regression"
