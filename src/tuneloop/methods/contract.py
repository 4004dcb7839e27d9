"""What a method is: the class that a plugin writes, and what it is handed.

A method says how to learn once; `iteration/` decides when, how often and with which hyperparameters, and keeps
the best model. See docs/plugins.md for a complete example.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from tuneloop.methods.snapshot import Snapshot

if TYPE_CHECKING:  # Optuna takes a second to import; the API only lists methods
    from optuna.distributions import BaseDistribution

Direction = Literal["maximize", "minimize"]
# Fewer usable held-out sessions than this say too little to promote a model.
MIN_HELD_OUT = 20


@dataclass(frozen=True)
class Meta:
    """Who a method is. `name` stands in experiment names, so it must not hold ` / `."""

    name: str
    version: str
    description: str


class MethodSettings(BaseModel):
    """The settings every method has; a method's own schema inherits from it and adds to it."""

    model_config = ConfigDict(extra="forbid")

    max_runs: int = Field(8, ge=1, le=1000, description="Runs (sets of hyperparameters) tried in one iteration.")
    max_minutes: float | None = Field(None, gt=0, description="Begin no new run after this many minutes.")
    main_metric: str = Field(description="The tracked metric that decides which run is best.")
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of the search and of every run.")


class Canceled(Exception):
    """Somebody canceled the task: leave `train` or `prepare` at once."""


class Pruned(Exception):
    """The run is not promising enough to go on."""


class Diverged(Exception):
    """The training's loss is no number any more."""


class Context(Protocol):
    """What `prepare` and `train` are handed to stay in touch with whoever runs them.

    Attributes:
        seed: of everything random.
        cache_bytes: disk space that the method's caches, next to the start model, may take.
    """

    seed: int
    cache_bytes: int

    def check(self) -> None:
        """Call at least every second or two of work.

        Raises:
            Canceled: the task was canceled.
        """

    def progress(self, stage: str, *, epoch: int | None = None, epochs: int | None = None) -> None:
        """Tell people what is being done."""

    def report(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Track metrics, which reach MLflow while the run is running. `step` grows over the run.

        Raises:
            Canceled: the task was canceled.
            Pruned: the main metric, reported so far, is not promising.
            Diverged: a metric whose name ends in `loss` is NaN or infinite.
        """


@dataclass(frozen=True)
class Prepared:
    """What `prepare` makes of a snapshot, once for all runs of an iteration.

    `data` is the method's own. `counts` become tags of every run (`sessions`, `sessions_without_click`, …).
    `held_out` is the number of usable held-out sessions. `baseline` holds the start model's metrics, measured as
    `train` measures its own.
    """

    data: Any
    counts: Mapping[str, int | float | str]
    held_out: int
    baseline: Mapping[str, float]


@dataclass(frozen=True)
class Trained:
    """What one run comes to: the model, and the metrics of exactly this model (the main metric among them).

    `data` is the method's own, for `verdict` and `write_report`.
    """

    model: Any
    metrics: Mapping[str, float] = field(default_factory=dict)
    data: Any = None


@dataclass(frozen=True)
class Verdict:
    """What the held-out data say of a model beside its start model.

    `words` become the task's `detail` when the model is the best; `metrics`, such as the bounds of an interval, are
    tracked with the run.
    """

    words: str
    metrics: Mapping[str, float] = field(default_factory=dict)


class InitialModelStore(Protocol):
    """Keeps initial models, each distinct source once."""

    def has(self, source_hash: str) -> bool:
        """Whether a model of this source is stored."""

    def put(self, source: str, source_hash: str, save: Callable[[Path], None]) -> None:
        """Store the MLflow model that `save` writes to the folder it is given."""


S = TypeVar("S", bound=MethodSettings)


class Method(ABC, Generic[S]):
    """A way to learn. Each task makes its own instance, with its checked settings.

    Attributes:
        meta: name, version and description.
        settings_schema: the pydantic class of its settings.
        metrics: the metrics that `main_metric` can name, each with the direction that is better.
    """

    meta: ClassVar[Meta]
    settings_schema: ClassVar[type[MethodSettings]]
    metrics: ClassVar[Mapping[str, Direction]]

    def __init__(self, settings: S) -> None:
        self.settings = settings

    # -- the initial model

    @abstractmethod
    def initial_model_source(self) -> str:
        """Names the model that the first iteration starts from: a hub id, a path, or any text of the method's own."""

    @abstractmethod
    def load_initial_model(self) -> Any:
        """That model, in memory, as `save_model` takes it."""

    def initial_model_hash(self) -> str:
        """Tells distinct initial models apart: by the files for a local folder, by the text otherwise."""
        source = self.initial_model_source()
        digest = hashlib.sha256()
        folder = Path(source)
        if folder.is_dir():
            for file in sorted(path for path in folder.rglob("*") if path.is_file()):
                digest.update(str(file.relative_to(folder)).encode())
                with file.open("rb") as stream:
                    digest.update(hashlib.file_digest(stream, "sha256").digest())
        else:
            digest.update(source.encode())
        return digest.hexdigest()

    def upload_initial_model(self, store: InitialModelStore) -> None:
        """Store the initial model, once for each distinct source."""
        source_hash = self.initial_model_hash()
        if store.has(source_hash):
            return

        def save(folder: Path) -> None:
            self.save_model(self.load_initial_model(), folder)

        store.put(self.initial_model_source(), source_hash, save)

    # -- learning

    def earlier_sessions(self) -> int:
        """How many sessions of earlier batches the snapshot is to hold; it holds no more than the batch has."""
        return 0

    @abstractmethod
    def search_space(self) -> Mapping[str, "BaseDistribution"]:
        """The hyperparameters and where to look for them, as Optuna distributions."""

    def search_space_for(self, snapshot: Snapshot) -> Mapping[str, "BaseDistribution"]:
        """The search space, less what makes no difference on this snapshot."""
        return self.search_space()

    def default_params(self) -> Mapping[str, Any] | None:
        """Hyperparameters known to work, tried first in a first iteration; None to begin with a guess."""
        return None

    @abstractmethod
    def prepare(self, snapshot: Snapshot, start_model: Path, context: Context) -> Prepared:
        """Make training data of a snapshot. `start_model` is the folder of an MLflow model that `save_model` wrote.

        Called once for the runs of an iteration, and again after a restart: the same snapshot, start model and
        seed must give the same data.
        """

    @abstractmethod
    def train(self, prepared: Prepared, start_model: Path, params: Mapping[str, Any], context: Context) -> Trained:
        """Train once, from the start model to a model, with one set of hyperparameters."""

    @abstractmethod
    def save_model(self, model: Any, folder: Path) -> None:
        """Write the model as an MLflow model to `folder`, which does not exist yet.

        `embed` and `rank` serve it without importing the plugin. Two forms are served: the
        `mlflow.sentence_transformers` flavour, and a pyfunc saved as *models from code*, whose `predict` takes a list
        of texts and `params={"kind": "query" | "item"}` and returns unit-length embeddings, shape (n, dimensions).
        """

    # -- judging

    def ineligible(self, prepared: Prepared, metrics: Mapping[str, float]) -> str | None:
        """Why a model with these metrics must not become the best; None when it may.

        The default asks that `test_ndcg_at_10` is not below the start model's.
        """
        now, before = metrics.get("test_ndcg_at_10"), prepared.baseline.get("test_ndcg_at_10")
        if now is None or before is None or now >= before:
            return None
        return f"test_ndcg_at_10 {now:.4f} is below the start model's {before:.4f}"

    def unpromotable(self, prepared: Prepared) -> str | None:
        """Why no run on these data may be promoted; None when it may."""
        if prepared.held_out >= MIN_HELD_OUT:
            return None
        return f"only {prepared.held_out} usable held-out sessions, {MIN_HELD_OUT} are needed to judge a model"

    # -- reporting

    def verdict(self, prepared: Prepared, trained: Trained) -> Verdict | None:
        """How sure it is that a model is better than the start model. Asked when it becomes the best so far."""
        return None

    def write_report(self, prepared: Prepared, trained: Trained, folder: Path) -> None:
        """Write files for people to look at to `folder`, which exists and is empty.

        Asked when a model becomes the best so far. The files are artifacts of its run, under `report/`, and go when
        its model goes.
        """
