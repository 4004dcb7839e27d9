"""Labels of entities learnt by gradient boosted trees and lines over features generated along the keys."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tuneloop.relational.backtest import Backtest, backtests, is_frozen, varied
from tuneloop.relational.boosted import WATCHED, Labels, Pool, Split, Trees, default_params, fit_all, fit_trees
from tuneloop.relational.boosted_model import BoostedModel, Member
from tuneloop.relational.dataset import Dataset
from tuneloop.relational.examples import Examples, Times
from tuneloop.relational.features import Features
from tuneloop.relational.learner import DEFAULT_OPTIONS, Folds, Learner, Options, Run, Watcher
from tuneloop.relational.linear import MAX_OUTPUTS, Linear, fit_linear
from tuneloop.relational.metrics import measure
from tuneloop.relational.opening import OpenTables
from tuneloop.relational.prepare import aged_copies, classes_of, compute_features, labels_of, plan_features
from tuneloop.relational.schema import NodeTask

if TYPE_CHECKING:
    from optuna import Trial

COPIES = 2  # of each training example, where predictions are made from rows that end earlier
_FIRST = default_params() | {"extra_trees": True, "bags": 5, "learning_rate": 0.1}
_FIRST_ROUNDS = 60
_EVERY = 1.0  # seconds between two looks at whether to stop


class BoostedNodes(Learner):
    """Gradient boosted trees over temporal features, and with them a linear model.

    Trees see thresholds and what goes together; a linear model has fewer ways to be wrong where there are few examples
    or where those to come lie outside what was seen. A setting says how much it counts.

    Settings are chosen by the validation split and, where that is small, by earlier ones within training
    (`backtests`). Where validation examples see no rows after some time, the setting `aged` tells whether training
    examples are aged alike: what is old news then weighs less, and what always holds may be seen less clearly.
    """

    name = "boosted"
    fitted = BoostedModel

    @classmethod
    def can(cls, dataset: Dataset) -> bool:
        """Whether it can learn the dataset's task."""
        return isinstance(dataset.task, NodeTask)

    def __init__(
        self,
        dataset: Dataset,
        data: OpenTables,
        folds: Folds,
        *,
        seed: int,
        work_dir: Path,
        options: Options = DEFAULT_OPTIONS,
    ) -> None:
        assert isinstance(dataset.task, NodeTask)
        self._task = dataset.task
        self._dataset = dataset
        self._data = data
        self._folds = folds
        self._seed = seed
        self._hops = options.hops
        self._ages = is_frozen(folds.validation)
        self._outputs = len(classes_of(self._task, folds.train))

    def prepare(self, watcher: Watcher) -> None:
        """Plan the features and compute those of all training and validation examples, at once."""
        train, validation = self._folds.train, self._folds.validation
        watcher.progress("planning features")
        self._plan = plan_features(self._dataset, self._data, train, hops=self._hops)
        for words in self._plan.left_out:
            watcher.log(f"left out, as each example would meet too many rows: {words}")
        self._classes = classes_of(self._task, train)
        self._tests = self._backtests()
        aged = [aged_copies(train, validation, COPIES, self._seed)] if self._ages else []
        choosing = [train, *aged, *(each.examples for each in self._tests), validation]
        everything = _joined(choosing + (self._fresh_and_aged() if self._ages else []))
        watcher.progress("computing features")
        watcher.check()
        features = compute_features(self._plan, self._dataset, self._data, everything, self._folds.labelled)
        watcher.log(f"{len(features.columns)} features of {len(everything)} examples")
        sheet = _Rows(features, labels_of(self._task, everything, self._classes), everything.times)
        count = sum(map(len, choosing))
        self._choosing = sheet.take(np.arange(count))
        known, held = np.arange(len(train)), count - len(validation) + np.arange(len(validation))
        self._splits = {False: _splits(self._tests, known, held)}
        self._finally = {False: sheet.take(np.concatenate([known, held]))}
        if self._ages:
            fresh = count + np.arange(len(validation))
            self._finally = {
                False: sheet.take(np.concatenate([known, fresh])),
                True: sheet.take(np.arange(count + len(validation), len(everything))),
            }
            copies = len(train) * np.arange(1, COPIES + 1)[:, None]
            self._splits[True] = [Split((copies + each.train).ravel(), each.held) for each in self._splits[False]]
        self._pools: dict[tuple[int, bool], Pool] = {}
        self._rankings: dict[bool, NDArray[np.int64]] = {}
        self._drawn: dict[str, list[Linear]] = {}

    def suggest(self, trial: Trial) -> dict[str, Any]:
        """Settings around those that are good for most tables."""
        found: dict[str, Any] = {
            "keep": trial.suggest_categorical("keep", [0, 60, 250]),
            "num_leaves": trial.suggest_int("num_leaves", 3, 32, log=True),
            "learning_rate": trial.suggest_float("learning_rate", 0.03, 0.1, log=True),
            "min_data_in_leaf": trial.suggest_int("min_data_in_leaf", 10, 150, log=True),
            "feature_fraction": trial.suggest_float("feature_fraction", 0.03, 0.5, log=True),
            "bagging_fraction": trial.suggest_float("bagging_fraction", 0.4, 0.9),
            "lambda_l2": trial.suggest_float("lambda_l2", 0.1, 50, log=True),
            "extra_trees": trial.suggest_categorical("extra_trees", [False, True]),
            "half_life": trial.suggest_categorical("half_life", [0.0, 0.1, 0.2, 0.4, 0.8]),
        }
        if self._outputs <= MAX_OUTPUTS:
            found["linear_share"] = trial.suggest_categorical("linear_share", [0.0, 0.25, 0.5])
            found["linear_strength"] = trial.suggest_categorical("linear_strength", [1.0, 3.0, 10.0, 30.0])
        if self._ages:
            found["aged"] = trial.suggest_categorical("aged", [False, True])
        return self.defaults() | found

    def defaults(self) -> dict[str, Any]:
        """Settings that work on most tables."""
        own = {"half_life": 0.0, "keep": 0, "bags": 5, "aged": False}
        linear = {"linear_share": 0.25 if self._outputs <= MAX_OUTPUTS else 0.0, "linear_strength": 10.0}
        return default_params() | {"extra_trees": True, "feature_fraction": 0.1} | own | linear

    def starts(self) -> list[dict[str, Any]]:
        """The defaults, and trees that split where they gain most; where examples can be aged, with and without."""
        greedy = {"extra_trees": False, "feature_fraction": 0.2}
        ages = [False, True] if self._ages else [False]
        return [self.defaults() | more | {"aged": aged} for more in ({}, greedy) for aged in ages]

    def fit(self, params: Mapping[str, Any], *, seed: int, watcher: Watcher) -> Run:
        """Fit on the training examples; the value is the mean over the validation split and earlier ones."""
        rows, task = self._choosing, self._task
        trees, lines = self._trees(params, seed, watcher), self._lines(params, seed, watcher)
        values: list[float] = []
        predicted: list[NDArray[np.float64]] = []
        for at, split in enumerate(self._splits[False]):
            model = self._model(params, trees[at], lines[at] if lines else None)
            predicted.append(model.predict_features(rows.features.values[split.held]))
            values.append(measure(task.evaluation_metric, rows.labels.values[split.held], predicted[-1]))
        found = {"rounds": trees[-1].best_rounds, "values": values}
        earlier = [(test.examples, each) for test, each in zip(self._tests, predicted[:-1], strict=True)]
        return Run(model, float(np.nanmean(values)), predicted[-1], found, earlier)

    def _trees(self, params: Mapping[str, Any], seed: int, watcher: Watcher) -> list[Trees]:
        """The trees of each split."""
        task, aged = self._task, params.get("aged", False)
        return fit_trees(
            task.task_type,
            task.evaluation_metric,
            self._pool(self._columns(params), aged),
            self._splits[aged],
            params,
            seed=seed,
            weights=_weights(self._choosing.times, self._splits[aged][-1].train, params),
            report=_Reporting(watcher, task.evaluation_metric),
        )

    def _lines(self, params: Mapping[str, Any], seed: int, watcher: Watcher) -> list[Linear]:
        """The linear model of each split; none where they do not count."""
        if not params.get("linear_share"):
            return []
        told = [params.get(name) for name in ("keep", "aged", "half_life", "linear_strength")]
        known = json.dumps([told, seed])
        if known not in self._drawn:
            rows = self._choosing.only(self._columns(params))
            weights = _weights(rows.times, self._splits[params.get("aged", False)][-1].train, params)
            found = []
            for split in self._splits[params.get("aged", False)]:
                watcher.check()
                learnt = rows.take(split.train)
                counted = None if weights is None else weights[split.train]
                found.append(self._line(learnt, params, seed, counted))
            self._drawn[known] = found
        return self._drawn[known]

    def _line(self, rows: _Rows, params: Mapping[str, Any], seed: int, weights: NDArray[np.float64] | None) -> Linear:
        strength = params["linear_strength"]
        return fit_linear(self._task.task_type, *rows.learnable, strength, seed=seed, weights=weights)

    def _columns(self, params: Mapping[str, Any]) -> NDArray[np.int64]:
        """The features that trees see: all, or those that a first fit gains most by.

        That fit knows only what every split learns from, so that no split has chosen by what it holds out.
        """
        rows = self._choosing
        count = len(rows.features.columns)
        if not 0 < params.get("keep", 0) < count:
            return np.arange(count)
        aged = params.get("aged", False)
        if aged not in self._rankings:
            task = self._task
            first = Pool(*rows.take(min((split.train for split in self._splits[aged]), key=len)).learnable)
            trees = fit_all(
                task.task_type, task.evaluation_metric, first, _FIRST, seed=self._seed, rounds=_FIRST_ROUNDS
            )
            self._rankings[aged] = np.argsort(-trees.importances(), kind="stable")
        return np.sort(self._rankings[aged][: params["keep"]])

    def _pool(self, columns: NDArray[np.int64], aged: bool) -> Pool:
        known = len(columns), aged
        if known not in self._pools:
            seen = self._choosing.only(columns)
            self._pools[known] = Pool(*seen.learnable, reference=self._splits[aged][-1].train)
        return self._pools[known]

    def refit(
        self, params: Mapping[str, Any], found: Mapping[str, Any], *, seed: int, watcher: Watcher
    ) -> BoostedModel:
        """Fit on training and validation examples together, so many rounds as `fit` found best, with all the bags."""
        task = self._task
        rows = self._finally[params.get("aged", False)].only(self._columns(params))
        weights = _weights(rows.times, np.arange(len(rows.times)), params)
        trees = fit_all(
            task.task_type,
            task.evaluation_metric,
            Pool(*rows.learnable),
            params,
            seed=seed,
            rounds=found["rounds"],
            weights=weights,
            check=_Reporting(watcher, task.evaluation_metric).check,
        )
        line = self._line(rows, params, seed, weights) if params.get("linear_share") else None
        return self._model(params, trees, line)

    def _model(self, params: Mapping[str, Any], trees: Trees, line: Linear | None) -> BoostedModel:
        """Trees and a linear model as one."""
        seen, share = self._columns(params), params.get("linear_share", 0.0)
        members = [Member(seen, trees, 1.0 - share)]
        if line is not None:
            members.append(Member(seen, line, share))
        columns = self._choosing.features.columns
        return BoostedModel(self._plan, columns, self._task.task_type, members, self._classes)

    # -- the examples

    def _fresh_and_aged(self) -> list[Examples]:
        """What the last fit learns from: validation examples that see all before them, and all as old as the test's."""
        train, validation, test = self._folds.train, self._folds.validation, self._folds.test
        fresh = replace(validation, cuts=validation.times)
        like = test if test is not None and is_frozen(test) else validation
        return [fresh, aged_copies(train + fresh, like, COPIES, self._seed + 1)]

    def _backtests(self) -> list[Backtest]:
        found = []
        for each in backtests(self._folds.train, self._folds.validation, self._task.horizon):
            labels = labels_of(self._task, self._folds.train, self._classes).values
            if varied(labels[each.train]) and varied(labels[each.held]):
                found.append(each)
        return found


@dataclass(frozen=True)
class _Rows:
    """Features, labels and times of examples, in one order."""

    features: Features
    labels: Labels
    times: Times

    def take(self, rows: NDArray[np.int64]) -> _Rows:
        features = Features(self.features.values[rows], self.features.columns)
        return _Rows(features, Labels(self.labels.values[rows], self.labels.classes), self.times[rows])

    def only(self, columns: NDArray[np.int64]) -> _Rows:
        """The same with some of the features."""
        if len(columns) == len(self.features.columns):
            return self
        seen = tuple(self.features.columns[at] for at in columns)
        return replace(self, features=Features(self.features.values[:, columns], seen))

    @property
    def learnable(self) -> tuple[Features, Labels]:
        """What trees learn from."""
        return self.features, self.labels


def _joined(parts: Sequence[Examples]) -> Examples:
    found = parts[0]
    for each in parts[1:]:
        found = found + each
    return found


def _splits(tests: Sequence[Backtest], known: NDArray[np.int64], held: NDArray[np.int64]) -> list[Split]:
    """Splits of the rows: those of each backtest, whose held ones stand before the validation rows, and these."""
    found, start = [], int(held[0]) - sum(len(each.held) for each in tests)
    for each in tests:
        found.append(Split(known[each.train], np.arange(start, start + len(each.held))))
        start += len(each.held)
    return [*found, Split(known, held)]


def _weights(times: Times, learnt: NDArray[np.int64], params: Mapping[str, Any]) -> NDArray[np.float64] | None:
    """Weights that halve with age: each `half_life` of the time that training spans."""
    share = params.get("half_life", 0.0)
    if not share or np.isnat(times).any():
        return None
    first, last = times[learnt].min(), times[learnt].max()
    ages = (last - times) / max(last - first, np.timedelta64(1, "us"))
    return np.asarray(0.5 ** (ages / share))


class _Reporting:
    """Tells a watcher of rounds, and looks every second whether to stop."""

    def __init__(self, watcher: Watcher, metric: str) -> None:
        self._watcher = watcher
        self._name = f"val_metric_{metric}" if metric in WATCHED else "val_loss"
        self._next = 0.0

    def __call__(self, number: int, values: Mapping[str, float]) -> None:
        if number % 10 == 0:
            self._watcher.report({self._name: next(iter(values.values()))}, step=number)
        self.check()

    def check(self) -> None:
        if monotonic() >= self._next:
            self._watcher.check()
            self._next = monotonic() + _EVERY
