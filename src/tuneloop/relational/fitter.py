"""One task's learners at work: fitted with given settings, measured, blended, and fitted again for use."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from tuneloop.relational.backtest import is_frozen, recent_mean
from tuneloop.relational.blend import combine
from tuneloop.relational.bootstrap import samples
from tuneloop.relational.dataset import Dataset
from tuneloop.relational.examples import Examples
from tuneloop.relational.facts import Attempt, Facts
from tuneloop.relational.judging import metrics_of, statistic_of, value_of, weighed
from tuneloop.relational.labels import classes_of
from tuneloop.relational.learner import (
    DEFAULT_OPTIONS,
    Fitted,
    Folds,
    Importance,
    Learner,
    Options,
    Predictions,
    Run,
    Watcher,
)
from tuneloop.relational.model import Part, TableModel, task_of
from tuneloop.relational.opening import OpenTables
from tuneloop.relational.outcomes import Correction, Held, can_be_corrected, choose_correction, corrected_splits
from tuneloop.relational.permutation import importance_by_table
from tuneloop.relational.schema import NodeTask
from tuneloop.relational.search import BLEND, Question, Tried

_PERMUTING_SECONDS = 20.0  # about, and at least once for each table
_SHARES = np.linspace(0, 1, 11)
_SAMPLES = 20, 200  # at least, at most
_LOOKED_AT = 4_000_000  # examples in all of them, about


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
        self._kept: dict[str, tuple[int, Run]] = {}

    def fit(self, number: int, question: Question, watcher: Watcher) -> Run:
        """One run of a search; each learner's best is kept for blending and for the report."""
        run = self._learner(question.learner, watcher).fit(question.params, seed=self._seed, watcher=watcher)
        run = self._as_served(run)
        kept = self._kept.get(question.learner)
        sign = 1 if self.task.maximise else -1
        if kept is None or sign * run.value > sign * kept[1].value:
            self._kept[question.learner] = number, run
        return run

    def refit(self, tried: Tried, watcher: Watcher) -> Fitted:
        """A run's settings on training and validation examples together."""
        learner = self._learner(tried.learner, watcher)
        return learner.refit(tried.params, tried.found, seed=self._seed, watcher=watcher)

    def model(self, parts: Sequence[tuple[Tried, float]], watcher: Watcher) -> TableModel:
        """A model of runs fitted again, each with its weight, that learns from what becomes of its predictions."""
        fitted = [Part(self.refit(tried, watcher), weight) for tried, weight in parts]
        correction = self.correction([(self.run(tried, watcher), weight) for tried, weight in parts])
        if correction is not None:
            whose = "of an entity" if correction.common is None else "of an entity and of everybody"
            watcher.log(
                f"errors {whose} that became known will correct predictions,"
                f" half as much after {correction.half_life} horizons"
            )
        return TableModel(self._dataset, fitted, self.classes, correction)

    def correction(self, parts: Sequence[tuple[Run, float]]) -> Correction | None:
        """How known errors should correct the predictions of runs, by what they predicted of held-out examples.

        Args:
            parts: the runs, each with its weight.
        """
        if not can_be_corrected(self.task):
            return None
        found = choose_correction(self.task, self._held(parts))
        return found and replace(found, since=self._folds.whole.times.max())

    def _held(self, parts: Sequence[tuple[Run, float]]) -> list[Held]:
        """The validation split and earlier ones, the latest first, with what runs predict of them."""
        runs, weights = zip(*parts, strict=True)
        held = [(self._folds.validation, combine([run.predictions for run in runs], weights))]
        held += [each for run, weight in parts if weight > 0 for each in run.earlier]
        return [(each, np.asarray(predictions)) for each, predictions in held]

    def _as_served(self, run: Run) -> Run:
        """A run, judged by predictions that are corrected as they will be, and later splits more than earlier ones.

        Where rows end before the examples nothing becomes known, and a run is judged as its learner does.
        """
        if not can_be_corrected(self.task) or is_frozen(self._folds.validation):
            return run
        held = self._held([(run, 1.0)])
        found = corrected_splits(self.task, held, choose_correction(self.task, held))
        values = [self.value(examples, each) for (examples, _), each in zip(held, found, strict=True)]
        return replace(run, value=recent_mean(values))

    def blend(self, champions: Sequence[Tried], watcher: Watcher) -> tuple[list[float], Predictions]:
        """The weights of two runs in one prediction of both, and what they predict of the validation examples.

        A weight is the mean of those that fit samples of the validation examples best: the fewer examples there are,
        the less they decide.
        """
        first, second = (self.run(tried, watcher).predictions for tried in champions)
        validation, metric = self._folds.validation, self.task.evaluation_metric
        measures = []
        for share in _SHARES.tolist():
            watcher.check()
            found = combine([first, second], [share, 1 - share])
            measures.append(statistic_of(self.task, metric, validation, found, self.classes))
        entities = weighed(self.task, validation)
        sign = 1 if self.task.maximise else -1
        best = []
        for often in samples(entities, int(np.clip(_LOOKED_AT // len(entities), *_SAMPLES))):
            watcher.check()
            values = [sign * each(often) for each in measures]
            if not np.isnan(values).any():
                best.append(_SHARES[np.argmax(values)])
        share = round(float(np.mean(best)), 2) if best else 0.5
        weights = [share, round(1 - share, 2)]
        return weights, combine([first, second], weights)

    def test(self, model: TableModel, watcher: Watcher) -> Predictions | None:
        """What a model predicts of the test examples; None where there are none."""
        if self._folds.test is None:
            return None
        return model.predict_examples(self._dataset, self._data, self._folds.test, self._folds.labelled, watcher)

    def facts(
        self,
        best: Tried,
        tried: Sequence[Tried],
        curves: Mapping[str, Sequence[tuple[int, float]]],
        tested: Predictions | None,
        watcher: Watcher,
    ) -> Facts:
        """What there is to report of a search.

        Args:
            best: the run that was kept.
            tried: all runs.
            curves: the metrics of the best run by step.
            tested: what its model predicts of the test examples.
            watcher: whoever waits.
        """
        parts = parts_of(best, tried)
        runs = [(self.run(each, watcher), weight) for each, weight in parts]
        model = TableModel(self._dataset, [Part(run.fitted, weight) for run, weight in runs], self.classes)
        predictions = {"validation": combine([run.predictions for run, _ in runs], [weight for _, weight in runs])}
        if tested is not None:
            predictions["test"] = tested
        validation, labelled = self._folds.validation, self._folds.labelled
        return Facts(
            dataset=self._dataset,
            folds=self._folds,
            predictions=predictions,
            runs=[_attempt(each, best) for each in tried],
            curves=curves,
            importances=_importances(runs),
            by_table=importance_by_table(
                model.predict_examples,
                self._dataset,
                self._data,
                validation,
                labelled,
                watcher=watcher,
                classes=self.classes,
                seed=self._seed,
                seconds=_PERMUTING_SECONDS,
            ),
            classes=self.classes,
            model=_described(parts) + (", corrected by what becomes known" if self.correction(runs) else ""),
        )

    def value(self, examples: Examples, predictions: Predictions) -> float:
        """The task's own metric."""
        return value_of(self.task, self.task.evaluation_metric, examples, predictions, self.classes)

    def metrics(self, examples: Examples, predictions: Predictions) -> dict[str, float]:
        """All metrics of the task's type, those left out that are not defined, such as the AUROC of one class."""
        found = {name: value_of(self.task, name, examples, predictions, self.classes) for name in metrics_of(self.task)}
        return {name: value for name, value in found.items() if not math.isnan(value)}

    def run(self, tried: Tried, watcher: Watcher) -> Run:
        """A learner's best run; fitted again where the process that knew it is gone."""
        number, run = self._kept.get(tried.learner, (-1, None))
        if run is None or number != tried.number:
            run = self.fit(tried.number, Question(tried.learner, tried.params, tried.suggested), watcher)
            self._kept[tried.learner] = tried.number, run
        return run

    def _learner(self, name: str, watcher: Watcher) -> Learner:
        learner = self._learners[name]
        if name not in self._prepared:
            watcher.progress(f"preparing {name}")
            learner.prepare(watcher)
            self._prepared.add(name)
        return learner


def parts_of(best: Tried, tried: Sequence[Tried]) -> list[tuple[Tried, float]]:
    """The runs whose models predict together in a run's model, each with its weight.

    One without weight is part of it still, for its embeddings.
    """
    if best.learner != BLEND:
        return [(best, 1.0)]
    by_number = {each.number: each for each in tried}
    return [
        (by_number[number], weight) for number, weight in zip(best.found["runs"], best.found["weights"], strict=True)
    ]


def _described(parts: Sequence[tuple[Tried, float]]) -> str:
    """Who predicts, and with which share where there are several."""
    shares = {each.learner: f" ({weight:.0%})" if len(parts) > 1 else "" for each, weight in parts if weight > 0}
    return " and ".join(f"{name}{share}" for name, share in shares.items())


def _attempt(each: Tried, best: Tried) -> Attempt:
    outcome = "best" if each.number == best.number else each.outcome
    return Attempt(each.learner, each.validation, each.seconds, each.params, outcome)


def _importances(runs: Sequence[tuple[Run, float]]) -> list[Importance]:
    total = sum(weight for run, weight in runs if run.fitted.importances())
    found = [
        replace(each, share=each.share * weight / total) for run, weight in runs for each in run.fitted.importances()
    ]
    return sorted(found, key=lambda each: -each.share)


def make_learners(
    dataset: Dataset,
    data: OpenTables,
    folds: Folds,
    found: Mapping[str, type[Learner]],
    *,
    seed: int,
    work_dir: Path,
    options: Options = DEFAULT_OPTIONS,
) -> dict[str, Learner]:
    """The learners of a task, each with a folder of its own."""
    made = {}
    for name, learner in found.items():
        folder = work_dir / name
        folder.mkdir(parents=True, exist_ok=True)
        made[name] = learner(dataset, data, folds, seed=seed, work_dir=folder, options=options)
    return made
