"""One task's learners at work: fitted with given settings, measured, blended, and fitted again for use."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tuneloop.relational.blend import combine
from tuneloop.relational.dataset import Dataset
from tuneloop.relational.examples import Examples
from tuneloop.relational.judging import metrics_of, value_of
from tuneloop.relational.labels import classes_of
from tuneloop.relational.learner import Fitted, Folds, Learner, Predictions, Run, Watcher
from tuneloop.relational.model import Part, TableModel, task_of
from tuneloop.relational.opening import OpenTables
from tuneloop.relational.schema import NodeTask
from tuneloop.relational.search import Question, Tried

_SHARES = np.linspace(0.1, 0.9, 9)


class Fitter:
    """Fits a task's learners, each prepared once.

    Args:
        dataset: the tables and the task.
        data: the tables' rows.
        folds: the task's examples.
        learners: by name.
        seed: of every fit.
    """

    def __init__(
        self, dataset: Dataset, data: OpenTables, folds: Folds, learners: Mapping[str, Learner], *, seed: int
    ) -> None:
        self.task = task_of(dataset)
        self.classes: tuple[str, ...] = ()
        if isinstance(self.task, NodeTask):
            assert folds.train.labels is not None
            self.classes = classes_of(self.task, folds.train.labels)
        self._dataset = dataset
        self._data = data
        self._folds = folds
        self._learners = learners
        self._seed = seed
        self._prepared: set[str] = set()
        self._predicted: dict[int, Predictions] = {}

    def fit(self, number: int, question: Question, watcher: Watcher) -> Run:
        """One run of a search; what it predicts of the validation examples is kept for blending."""
        run = self._learner(question.learner, watcher).fit(question.params, seed=self._seed, watcher=watcher)
        self._predicted[number] = run.predictions
        return run

    def refit(self, tried: Tried, watcher: Watcher) -> Fitted:
        """A run's settings on training and validation examples together."""
        learner = self._learner(tried.learner, watcher)
        return learner.refit(tried.params, tried.found, seed=self._seed, watcher=watcher)

    def model(self, parts: Sequence[tuple[Tried, float]], watcher: Watcher) -> TableModel:
        """A model of runs fitted again, each with its weight."""
        fitted = [Part(self.refit(tried, watcher), weight) for tried, weight in parts]
        return TableModel(self._dataset, fitted, self.classes)

    def blend(self, champions: Sequence[Tried], watcher: Watcher) -> tuple[list[float], Predictions]:
        """The weights with which two runs' predictions together fit the validation examples best, and these."""
        first, second = (self._predictions(tried, watcher) for tried in champions)
        options = [([share, 1 - share], combine([first, second], [share, 1 - share])) for share in _SHARES.tolist()]
        values = [self.value(self._folds.validation, found) for _, found in options]
        return options[int(np.argmax(values) if self.task.maximise else np.argmin(values))]

    def test(self, model: TableModel, watcher: Watcher) -> Predictions | None:
        """What a model predicts of the test examples; None where there are none."""
        if self._folds.test is None:
            return None
        return model.predict_examples(self._dataset, self._data, self._folds.test, self._folds.labelled, watcher)

    def value(self, examples: Examples, predictions: Predictions) -> float:
        """The task's own metric."""
        return value_of(self.task, self.task.evaluation_metric, examples, predictions, self.classes)

    def metrics(self, examples: Examples, predictions: Predictions) -> dict[str, float]:
        """All metrics of the task's type, those left out that are not defined, such as the AUROC of one class."""
        found = {name: value_of(self.task, name, examples, predictions, self.classes) for name in metrics_of(self.task)}
        return {name: value for name, value in found.items() if not math.isnan(value)}

    def _predictions(self, tried: Tried, watcher: Watcher) -> Predictions:
        """Of the validation examples; computed again where the process that knew is gone."""
        if tried.number not in self._predicted:
            self.fit(tried.number, Question(tried.learner, tried.params, tried.suggested), watcher)
        return self._predicted[tried.number]

    def _learner(self, name: str, watcher: Watcher) -> Learner:
        learner = self._learners[name]
        if name not in self._prepared:
            watcher.progress(f"preparing {name}")
            learner.prepare(watcher)
            self._prepared.add(name)
        return learner


def make_learners(
    dataset: Dataset,
    data: OpenTables,
    folds: Folds,
    found: Mapping[str, type[Learner]],
    *,
    seed: int,
    work_dir: Any,
) -> dict[str, Learner]:
    """The learners of a task, each with a folder of its own."""
    made = {}
    for name, learner in found.items():
        folder = work_dir / name
        folder.mkdir(parents=True, exist_ok=True)
        made[name] = learner(dataset, data, folds, seed=seed, work_dir=folder)
    return made
