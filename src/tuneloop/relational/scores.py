"""The metrics of a task for people: what each is called and means, its value and interval, and a guess beside it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tuneloop.relational.baselines import baseline
from tuneloop.relational.bootstrap import Interval
from tuneloop.relational.facts import Facts
from tuneloop.relational.judging import entity_numbers, intervals_of, metrics_of, value_of
from tuneloop.relational.schema import SMALLER_IS_BETTER, LinkTask, NodeTask

_WORDS = {
    "roc_auc": ("AUROC", "how often one that is true is ranked above one that is not"),
    "average_precision": ("Average precision", "precision, over all recalls"),
    "accuracy": ("Accuracy", "the share that is right"),
    "f1": ("F1", "precision and recall in one, at a probability of 0.5"),
    "precision": ("Precision", "of those said to be true, the share that is"),
    "recall": ("Recall", "of those that are true, the share found"),
    "macro_f1": ("Macro F1", "the F1 of each class, every class counting alike"),
    "micro_f1": ("Micro F1", "the F1 of all choices together"),
    "mae": ("MAE", "mean absolute error"),
    "rmse": ("RMSE", "root of the mean squared error"),
    "r2": ("R²", "the share of the variance explained"),
    "mape": ("MAPE", "mean error as a share of the label"),
}
_LINK_WORDS = {
    "map": ("MAP", "precision at each hit among the first {k}, on average"),
    "precision": ("Precision", "of the first {k}, the share that was linked to"),
    "recall": ("Recall", "of what was linked to, the share among the first {k}"),
}
_MEANINGLESS = 1e6  # a relative error beyond comes from labels of 0


@dataclass(frozen=True)
class Cell:
    """A metric on one split: the model's, and that of a guess that looks at nobody."""

    model: Interval
    guess: float


@dataclass(frozen=True)
class Score:
    """A metric in the table.

    Attributes:
        metric: as the schema calls it.
        name: as people do.
        meaning: in a line.
        smaller: whether less is better.
        cells: by split.
    """

    metric: str
    name: str
    meaning: str
    smaller: bool
    cells: dict[str, Cell]


@dataclass(frozen=True)
class Split:
    """What a split is made of: examples, entities and, where there are times, the first and the last."""

    examples: int
    entities: int
    first: str = ""
    last: str = ""


def scores(facts: Facts) -> list[Score]:
    """All metrics of the task's type on each split that was predicted, the one that decides first."""
    task, found = facts.task, {}
    for split, predictions in facts.predictions.items():
        examples = getattr(facts.folds, split)
        guess = baseline(task, facts.folds.train, len(examples), facts.classes)
        measured = intervals_of(task, examples, predictions, facts.classes)
        for metric, interval in measured.items():
            guessed = value_of(task, metric, examples, guess, facts.classes)
            found[split, metric] = Cell(_sensible(metric, interval), _sensible(metric, Interval(guessed, 0, 0)).value)
    return [
        Score(
            metric,
            *words_of(metric),
            metric in SMALLER_IS_BETTER,
            {split: found[split, metric] for split in facts.predictions},
        )
        for metric in metrics_of(task)
    ]


def splits(facts: Facts) -> dict[str, Split]:
    """What each split is made of."""
    found = {}
    for name in ("train", "validation", "test"):
        examples = getattr(facts.folds, name)
        if examples is None or not len(examples):
            continue
        times = examples.times[~np.isnat(examples.times)]
        entities = len(np.unique(entity_numbers(examples)))
        span = (_day(times.min()), _day(times.max())) if len(times) else ("", "")
        found[name] = Split(len(examples), entities, *span)
    return found


def words_of(metric: str) -> tuple[str, str]:
    """A metric's name and what it means."""
    if metric in _WORDS:
        return _WORDS[metric]
    if metric.startswith("multilabel_"):
        _, name, average = metric.split("_")
        said = {"auprc": "AUPRC", "auroc": "AUROC", "precision": "Precision"}[name]
        return f"{said}, {average}", "each label counting alike" if average == "macro" else "all labels together"
    name, _, k = metric.partition("_at_")
    said, meaning = _LINK_WORDS[name]
    return f"{said}@{k}", meaning.format(k=k)


def said(task: NodeTask | LinkTask, classes: tuple[str, ...]) -> str:
    """What is predicted, for whom and when, as a sentence."""
    entity = task.entity
    ahead = "" if task.horizon is None else f" within the next {span_words(task)}"
    if isinstance(task, LinkTask):
        again = "again " if task.task_type == "repeated_link_prediction" else ""
        what = f"which {task.target_entity.table} it will {again}be linked to"
    elif task.task_type == "binary_classification":
        what = f"the probability that {task.label_column} is true"
    elif task.task_type == "multiclass_classification":
        what = f"which of {len(classes):,} classes {task.label_column} is"
    elif task.task_type == "multilabel_classification":
        what = f"which of {len(classes):,} labels {task.label_column} holds"
    else:
        what = f"what {task.label_column} comes to"
    when = "" if task.time_column is None else f", as of its {task.time_column}"
    return f"For a row of {entity.table} ({entity.column}){when}: {what}{ahead}."


def span_words(task: NodeTask | LinkTask) -> str:
    """The horizon as a person would say it: "30 days", "week"."""
    from pydantic import TypeAdapter

    from tuneloop.relational.schema import Duration

    assert task.horizon is not None
    return str(TypeAdapter(Duration).dump_python(task.horizon, mode="json")).removeprefix("1 ")


def number(value: float | None) -> str:
    """A metric to look at: three digits after the point, fewer of large ones."""
    if value is None or not math.isfinite(value):
        return "–"
    size = abs(value)
    digits = 3 if size < 10 else 2 if size < 100 else 1 if size < 1000 else 0
    text = f"{value:,.{digits}f}"
    if not text.strip("-0.,"):
        text = text.lstrip("-")
    return text.replace("-", "−")


def _sensible(metric: str, found: Interval) -> Interval:
    if metric == "mape" and found.value > _MEANINGLESS:
        return Interval(float("nan"), float("nan"), float("nan"))
    return found


def _day(time: np.datetime64) -> str:
    return str(np.datetime_as_string(time, unit="D"))
