"""What a search over tables knows when it is over: what its report is written from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tuneloop.relational.dataset import Dataset
from tuneloop.relational.learner import Folds, Importance, Predictions
from tuneloop.relational.schema import LinkTask, NodeTask


@dataclass(frozen=True)
class Attempt:
    """One run of the search.

    Attributes:
        learner: its name.
        value: of the metric that decides, on validation; None where it came to none.
        seconds: how long it took.
        params: its settings.
        outcome: in a word: "best", "done", "pruned", "failed", "canceled".
    """

    learner: str
    value: float | None
    seconds: float
    params: Mapping[str, Any]
    outcome: str = "done"


@dataclass(frozen=True)
class Facts:
    """What a search knows.

    Attributes:
        dataset: the tables and the task.
        folds: the examples: of training for what a guess knows, of validation and test for what is measured.
        predictions: by split, "validation" and perhaps "test", in the order of the fold's examples.
        runs: in the order of the search.
        curves: metrics by round or epoch of the best run: `train_loss`, `val_loss`, `val_metric_roc_auc`.
        importances: what the best run looks at, most first.
        by_table: how much worse it becomes without each table (`importance_by_table`), in the metric's unit.
        classes: the names of classes, in the order of predictions; empty where these are numbers.
        model: what was kept, in words: "boosted", "boosted and gnn, 0.6 to 0.4".
    """

    dataset: Dataset
    folds: Folds
    predictions: Mapping[str, Predictions]
    runs: Sequence[Attempt] = ()
    curves: Mapping[str, Sequence[tuple[int, float]]] = field(default_factory=dict)
    importances: Sequence[Importance] = ()
    by_table: Mapping[str, float] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    model: str = ""

    @property
    def task(self) -> NodeTask | LinkTask:
        """What was predicted."""
        assert self.dataset.task is not None
        return self.dataset.task
