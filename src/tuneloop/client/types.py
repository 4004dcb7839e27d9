"""What the client answers with: frozen dataclasses. A field that a newer service adds is left aside."""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, Self

if TYPE_CHECKING:  # NumPy takes a while to import; only embeddings need it
    import numpy as np
    from numpy.typing import NDArray

TaskStatus = Literal["pending", "processing", "done", "canceled", "error"]
TaskKind = Literal["fine_tuning", "embed_items", "relational", "predict"]
TextKind = Literal["query", "item"]
Payload = Mapping[str, Any]

ENDED: frozenset[str] = frozenset(("done", "canceled", "error"))


def parse_time(value: str | None) -> datetime | None:
    """A time of an answer (ISO 8601, UTC, no offset) as an aware `datetime`."""
    return datetime.fromisoformat(value).replace(tzinfo=UTC) if value else None


class _Answer:
    """Reads itself from an answer, by the names of its fields."""

    @classmethod
    def parse(cls, payload: Payload) -> Self:
        """The answer as this type; fields it does not know are left aside."""
        known = {spec.name for spec in dataclasses.fields(cls)}  # type: ignore[arg-type]  # only dataclasses inherit
        values = {name: value for name, value in payload.items() if name in known}
        for name in known & {"created_at", "updated_at", "released_at"}:
            values[name] = parse_time(values.get(name))
        return cls(**(values | cls._nested(payload)))

    @classmethod
    def _nested(cls, payload: Payload) -> dict[str, Any]:
        """The fields that hold other answers."""
        return {}

    @classmethod
    def parse_all(cls, payloads: Iterable[Payload] | None) -> tuple[Self, ...]:
        """Each of a list."""
        return tuple(cls.parse(payload) for payload in payloads or ())


@dataclass(frozen=True)
class SearchResult(_Answer):
    """A result that a search showed; `rank` is the score it was shown with."""

    object_id: str
    rank: float | None = None
    meta: Any = None


@dataclass(frozen=True)
class Event(_Answer):
    """Something a user did with one result. `created_at` is a `datetime`; Unix seconds are taken in requests too."""

    event_id: str
    object_id: str
    event_type: str = "click"
    created_at: datetime | float | None = None
    meta: Any = None


@dataclass(frozen=True)
class Session(_Answer):
    """One search: the query, what it showed, and what the user did with it."""

    session_id: str
    search_query: str
    search_results: tuple[SearchResult, ...]
    search_meta: Any = None
    user_id: str | None = None
    created_at: datetime | None = None
    events: tuple[Event, ...] = ()
    is_irrelevant: bool = False
    batch_id: str | None = None

    @classmethod
    def _nested(cls, payload: Payload) -> dict[str, Any]:
        return {
            "search_results": SearchResult.parse_all(payload.get("search_results")),
            "events": Event.parse_all(payload.get("events")),
        }


@dataclass(frozen=True)
class Batch(_Answer):
    """Sessions gathered until they are released for learning."""

    batch_id: str
    status: Literal["collecting", "released"]
    sessions: int = 0
    late_events: int = 0
    created_at: datetime | None = None
    released_at: datetime | None = None


@dataclass(frozen=True)
class Rejected(_Answer):
    """A line of an import that was not stored; lines count from 1."""

    line: int
    error: str


@dataclass(frozen=True)
class ImportReport(_Answer):
    """What became of an import. `rejected` names the first thousand bad lines of `rejected_total`.

    `complete` is false when so many lines were bad that the rest was not sent.
    """

    accepted: int = 0
    duplicates: int = 0
    rejected: tuple[Rejected, ...] = ()
    rejected_total: int = 0
    complete: bool = True

    @property
    def all_rejected(self) -> bool:
        """Whether there were lines, and not one of them was good."""
        return self.rejected_total > 0 and not self.accepted + self.duplicates

    @classmethod
    def _nested(cls, payload: Payload) -> dict[str, Any]:
        rejected = Rejected.parse_all(payload.get("rejected"))
        return {"rejected": rejected, "rejected_total": payload.get("rejected_total", len(rejected))}


@dataclass(frozen=True)
class Item(_Answer):
    """A thing that search can return."""

    object_id: str
    text: str | None = None
    fields: dict[str, Any] | None = None


@dataclass(frozen=True)
class MainMetric(_Answer):
    """The metric that decides: its latest value in the running run, and the best of the finished ones."""

    name: str
    value: float | None = None
    best: float | None = None


@dataclass(frozen=True)
class Progress(_Answer):
    """How far a task has come."""

    stage: str | None = None
    runs_done: int | None = None
    runs_total: int | None = None
    epoch: int | None = None
    epochs: int | None = None
    items_done: int | None = None
    items_total: int | None = None
    items_encoded: int | None = None
    main_metric: MainMetric | None = None

    @classmethod
    def _nested(cls, payload: Payload) -> dict[str, Any]:
        metric = payload.get("main_metric")
        return {"main_metric": MainMetric.parse(metric) if metric else None}


@dataclass(frozen=True)
class Task(_Answer):
    """Work that somebody asked for.

    `fine_tuning_method` and `batch_id` belong to a fine-tuning, `dataset` to what is learnt from tables, `output`,
    where it wrote, to embeddings and predictions.
    """

    id: str
    status: TaskStatus
    kind: str = "fine_tuning"
    fine_tuning_method: str | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None
    batch_id: str | None = None
    metadata: dict[str, Any] | None = None
    settings: dict[str, Any] | None = None
    dataset: dict[str, Any] | None = None
    idempotency_key: str | None = None
    progress: Progress | None = None
    detail: str | None = None
    start_run_id: str | None = None
    best_run_id: str | None = None
    best_model_url: str | None = None
    best_run_url: str | None = None
    experiment_url: str | None = None
    output: str | None = None

    @classmethod
    def _nested(cls, payload: Payload) -> dict[str, Any]:
        progress = payload.get("progress")
        return {"progress": Progress.parse(progress) if progress else None}

    @property
    def is_over(self) -> bool:
        """Whether nothing more happens: it is done, canceled or failed."""
        return self.status in ENDED


@dataclass(frozen=True)
class TaskLog(_Answer):
    """Lines that a task printed, and the cursor of what comes after them."""

    lines: tuple[str, ...]
    next: str

    @classmethod
    def _nested(cls, payload: Payload) -> dict[str, Any]:
        return {"lines": tuple(payload.get("lines") or ())}


@dataclass(frozen=True)
class Method(_Answer):
    """A way to learn that the service offers."""

    name: str
    version: str = ""
    description: str = ""
    main_metric: str | None = None
    settings_schema: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class FailedMethod(_Answer):
    """A plugin that the service could not use, and why."""

    source: str
    error: str


@dataclass(frozen=True)
class Methods(_Answer):
    """The methods that work, and the plugins that do not."""

    methods: tuple[Method, ...] = ()
    failed: tuple[FailedMethod, ...] = ()

    @classmethod
    def _nested(cls, payload: Payload) -> dict[str, Any]:
        return {
            "methods": Method.parse_all(payload.get("methods")),
            "failed": FailedMethod.parse_all(payload.get("failed")),
        }


@dataclass(frozen=True)
class Registered(_Answer):
    """The version of a model that a registration made."""

    name: str
    version: str

    @classmethod
    def _nested(cls, payload: Payload) -> dict[str, Any]:
        return {"version": str(payload["version"])}


@dataclass(frozen=True)
class Scored(_Answer):
    """An item and its score, by a model, for a query."""

    object_id: str
    score: float


@dataclass(frozen=True)
class Ranking(_Answer):
    """Items by score, best first, and the model (`name/version`) that scored them when the service says so."""

    results: tuple[Scored, ...]
    model: str | None = None

    @classmethod
    def _nested(cls, payload: Payload) -> dict[str, Any]:
        return {"results": Scored.parse_all(payload.get("results"))}


@dataclass(frozen=True)
class Embeddings:
    """Embeddings of unit length, float32 (n, dimensions), and the model (`name/version`) that made them."""

    vectors: "NDArray[np.float32]"
    model: str


@dataclass(frozen=True)
class Alias(_Answer):
    """An alias of a model and the version it names."""

    name: str
    alias: str
    version: str


@dataclass(frozen=True)
class PartHealth(_Answer):
    """Whether a part of the service answers, and what it says."""

    ok: bool
    detail: str = ""


@dataclass(frozen=True)
class Health:
    """Whether every part of the service answers: the `database`, the `queue` (its workers), `mlflow`."""

    ok: bool
    parts: dict[str, PartHealth]


@dataclass(frozen=True)
class ModelRef:
    """A model as people write it: `shop` (the latest version), `shop/3`, `shop@champion`."""

    name: str
    version: str = "latest"

    @classmethod
    def parse(cls, text: str) -> "ModelRef":
        """Reads `name`, `name/version` or `name@alias`."""
        name, slash, version = text.rpartition("/")
        if slash:
            return cls(name, version)
        name, at, alias = text.rpartition("@")
        return cls(name, f"@{alias}") if at else cls(text)


@dataclass(frozen=True)
class ModelVersion(_Answer):
    """A version of a registered model, the run it came from and that run's metrics."""

    version: str
    description: str | None = None
    created_at: datetime | None = None
    aliases: tuple[str, ...] = ()
    run_id: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)

    @classmethod
    def _nested(cls, payload: Payload) -> dict[str, Any]:
        return {
            "version": str(payload["version"]),
            "aliases": tuple(payload.get("aliases") or ()),
            "metrics": dict(payload.get("metrics") or {}),
        }


@dataclass(frozen=True)
class Model(_Answer):
    """A registered model: its versions, newest first, and the aliases that point at them."""

    name: str
    description: str | None = None
    created_at: datetime | None = None
    versions: tuple[ModelVersion, ...] = ()
    aliases: dict[str, str] = field(default_factory=dict)

    @classmethod
    def _nested(cls, payload: Payload) -> dict[str, Any]:
        versions = ModelVersion.parse_all(payload.get("versions"))
        aliases = {alias: str(version) for alias, version in dict(payload.get("aliases") or {}).items()}
        return {"versions": versions, "aliases": aliases}


@dataclass(frozen=True)
class DatasetProblem(_Answer):
    """One thing that is wrong with a dataset. `table` is one of its tables, or a split of its task: `task.train`."""

    table: str
    column: str | None
    problem: str
    fix: str
