"""What a way to learn from tables is: a class that fits examples, and what it comes to, which predicts and is stored.

A learner is handed open tables and examples; it knows nothing of queues or MLflow. What it tells reaches them through
a `Watcher`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from tuneloop.relational.dataset import Dataset
from tuneloop.relational.examples import Examples
from tuneloop.relational.opening import OpenTables

if TYPE_CHECKING:
    import pyarrow as pa
    from optuna import Trial


class Watcher(Protocol):
    """Whoever asked for the work, following it. Whatever it raises ends the work at once."""

    def check(self) -> None:
        """Called every second or two; raises when the work is to stop."""

    def progress(self, stage: str, *, epoch: int | None = None, epochs: int | None = None) -> None:
        """What is being done."""

    def report(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Metrics of an epoch or a round: `train_loss`, `val_loss`, `train_metric_…`, `val_metric_…`, `learning_rate`.

        Raises what ends a run that does not promise enough.
        """

    def log(self, line: str) -> None:
        """Say something worth reading later."""


class Silent:
    """A watcher that listens to nothing."""

    def check(self) -> None:
        """Goes on."""

    def progress(self, stage: str, *, epoch: int | None = None, epochs: int | None = None) -> None:
        """Tells nobody."""

    def report(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Tells nobody."""

    def log(self, line: str) -> None:
        """Tells nobody."""


@dataclass(frozen=True)
class Folds:
    """The examples of a task, by what they are for.

    Attributes:
        train: what is learnt from. Each sees all rows up to its cut-off.
        validation: what settings are chosen by.
        test: what decides nothing; None where there is none.
    """

    train: Examples
    validation: Examples
    test: Examples | None = None

    @property
    def whole(self) -> Examples:
        """Training and validation examples, each seeing all up to its time.

        The validation examples' own cut-offs are what test examples will meet; they are not learnt from.
        """
        held = self.validation
        return self.train + Examples(held.keys, held.times, held.times, held.labels)

    @property
    def labelled(self) -> Examples:
        """All whose labels are known: these are rows too, known when their horizon has passed."""
        found = self.train + self.validation
        return found if self.test is None or self.test.labels is None else found + self.test


@dataclass(frozen=True)
class Links:
    """What entities will be linked to, most likely first.

    Attributes:
        keys: (N × K,) of the target's key, an example after another; null where there are fewer than K.
        scores: (N, K), falling; -inf where there is none. They compare within an example.
    """

    keys: pa.Array
    scores: NDArray[np.float64]


Predictions = NDArray[np.float64] | Links  # (N,) or (N, C) of a node task, `Links` of a link task


@dataclass(frozen=True)
class Importance:
    """How much a model looks at something: "mean grid in the last 365 days, through results".

    Attributes:
        words: what it is.
        table: where it comes from.
        share: of all, from 0 to 1.
    """

    words: str
    table: str
    share: float


class Fitted(ABC):
    """A fitted model. It holds no rows: the tables are handed to it again.

    Attributes:
        learner: the name of what made it.
    """

    learner: ClassVar[str]

    @abstractmethod
    def predict(
        self, dataset: Dataset, data: OpenTables, examples: Examples, labelled: Examples | None, watcher: Watcher
    ) -> Predictions:
        """Predictions in the order of the examples.

        Args:
            dataset: the tables' descriptions and the task it was fitted for.
            data: the tables' rows.
            examples: whom, when, and what may be seen.
            labelled: earlier examples whose labels may be looked at, where they were known by the cut-off.
            watcher: whoever waits.
        """

    def embed(
        self, dataset: Dataset, data: OpenTables, examples: Examples, labelled: Examples | None, watcher: Watcher
    ) -> NDArray[np.float32] | None:
        """What it knows of each example as numbers, (N, D); None where it makes no embeddings."""
        return None

    def importances(self) -> Sequence[Importance]:
        """What it looks at, most first; empty where that cannot be told."""
        return ()

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write it to a folder, which exists: JSON, safetensors, LightGBM text."""

    @classmethod
    @abstractmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote. Nothing is unpickled."""


@dataclass(frozen=True)
class Run:
    """What one fit comes to.

    Attributes:
        fitted: the model, fitted on the training examples.
        value: what settings are chosen by: the task's metric on held-out examples.
        predictions: of the validation examples.
        found: what early stopping found, such as the best number of rounds: JSON, for `refit`.
        earlier: validation splits of earlier times, with predictions by the same settings on what was known then.
    """

    fitted: Fitted
    value: float
    predictions: Predictions
    found: Mapping[str, Any] = field(default_factory=dict)
    earlier: Sequence[tuple[Examples, Predictions]] = ()


@dataclass(frozen=True)
class Options:
    """What a person settled for all runs of a search.

    Attributes:
        hops: how many keys generated features follow.
        text_model: reads text columns: a folder or a name; None to leave them aside.
    """

    hops: int = 2
    text_model: str | None = None


DEFAULT_OPTIONS = Options()


class Learner(ABC):
    """A way to learn a task from tables.

    Attributes:
        name: how settings call it.
        fitted: the class of what it comes to.
    """

    name: ClassVar[str]
    fitted: ClassVar[type[Fitted]]

    @classmethod
    def can(cls, dataset: Dataset) -> bool:
        """Whether it can learn the dataset's task."""
        return True

    @abstractmethod
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
        """Nothing is computed yet.

        Args:
            dataset: the tables and the task.
            data: the tables' rows.
            folds: the examples.
            seed: of everything random that all fits share.
            work_dir: a folder for files of its own; gone afterwards.
            options: those of them that it has a use for are followed.
        """

    @abstractmethod
    def prepare(self, watcher: Watcher) -> None:
        """Compute what all fits share, such as features or a graph; once."""

    @abstractmethod
    def suggest(self, trial: Trial) -> dict[str, Any]:
        """Settings to try: JSON values, by `trial.suggest_…`."""

    @abstractmethod
    def defaults(self) -> dict[str, Any]:
        """Settings that work on most tables, as `trial.suggest_…` would name them."""

    def starts(self) -> list[dict[str, Any]]:
        """Settings to try before any others, once prepared."""
        return [self.defaults()]

    @abstractmethod
    def fit(self, params: Mapping[str, Any], *, seed: int, watcher: Watcher) -> Run:
        """Fit on the training examples, stopping early by the validation examples."""

    @abstractmethod
    def refit(self, params: Mapping[str, Any], found: Mapping[str, Any], *, seed: int, watcher: Watcher) -> Fitted:
        """Fit on training and validation examples together, as long as `fit` found best."""


_LEARNERS = (
    "tuneloop.relational.boosted_nodes:BoostedNodes",
    "tuneloop.relational.boosted_links:BoostedLinks",
    "tuneloop.relational.gnn_nodes:GnnNodes",
    "tuneloop.relational.gnn_links:GnnLinks",
)


def learners_for(dataset: Dataset) -> dict[str, type[Learner]]:
    """The learners that can learn a dataset's task, by name, the quickest first.

    Those whose libraries are not installed are left out.
    """
    found: dict[str, type[Learner]] = {}
    for place in _LEARNERS:
        module, _, name = place.partition(":")
        try:
            learner: type[Learner] = getattr(import_module(module), name)
        except ImportError:
            continue
        if learner.can(dataset):
            found[learner.name] = learner
    return found
