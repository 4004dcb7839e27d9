"""What a dataset is made of: tables with their keys, and a task. Nothing here reads data."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import field
from datetime import timedelta
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BeforeValidator, ConfigDict, Field, PlainSerializer, StringConstraints, model_validator
from pydantic.dataclasses import dataclass

ColumnType = Literal["float", "integer", "category", "multi_categorical", "datetime", "text", "embedding"]
COLUMN_TYPES: tuple[ColumnType, ...] = get_args(ColumnType)

NodeTaskType = Literal["binary_classification", "multiclass_classification", "multilabel_classification", "regression"]
LinkTaskType = Literal["link_prediction", "repeated_link_prediction"]

# The metrics of each task type; the first is the default.
METRICS: dict[str, tuple[str, ...]] = {
    "binary_classification": ("roc_auc", "average_precision", "accuracy", "f1", "precision", "recall"),
    "multiclass_classification": ("macro_f1", "micro_f1", "accuracy"),
    "multilabel_classification": (
        "multilabel_auprc_macro",
        "multilabel_auprc_micro",
        "multilabel_auroc_macro",
        "multilabel_auroc_micro",
        "multilabel_precision_macro",
        "multilabel_precision_micro",
    ),
    "regression": ("mae", "rmse", "r2", "mape"),
}
# Of links, for any k up to a thousand: map_at_12.
LINK_METRICS = ("map", "precision", "recall")
DEFAULT_LINK_METRIC = "map_at_12"
MAX_K = 1000
SMALLER_IS_BETTER = frozenset(("mae", "rmse", "mape"))
SPLITS = ("train", "validation", "test")

_UNITS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400, "week": 604800}
_DURATION = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(second|minute|hour|day|week)s?\s*")


def _parse_duration(value: Any) -> Any:
    if isinstance(value, str) and (match := _DURATION.fullmatch(value.lower())):
        return timedelta(seconds=float(match[1]) * _UNITS[match[2]])
    if isinstance(value, str) and not value.strip().upper().startswith(("P", "-P")):
        raise ValueError(f'is not a span of time: write "7 days", "12 hours" or ISO 8601 as "P7D", not {value!r}')
    return value


def _say_duration(value: timedelta) -> str:
    seconds = value.total_seconds()
    unit, size = next(each for each in reversed(_UNITS.items()) if seconds % each[1] == 0 or each[1] == 1)
    return f"{seconds / size:g} {unit}" + ("" if seconds == size else "s")


def _column_of(value: Any) -> Any:
    return {"column": value} if isinstance(value, str) else value


STRICT = ConfigDict(extra="forbid", str_max_length=10_000)
Name = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f/]+$")]
TableName = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f./#]+$")]
Column = Annotated[str, StringConstraints(min_length=1, max_length=512)]
Duration = Annotated[
    timedelta, BeforeValidator(_parse_duration), PlainSerializer(_say_duration, when_used="json"), Field(gt=timedelta())
]


@dataclass(frozen=True, config=STRICT)
class CandidateKey:
    """A column whose values each name one row of its table."""

    column: Column


@dataclass(frozen=True, config=STRICT)
class ForeignKey:
    """A column whose values are those of another table's candidate key, `link_to="customers.customer_id"`."""

    column: Column
    link_to: Annotated[str, StringConstraints(pattern=r"^[^.]+\..+$")] = field(kw_only=True)

    @property
    def table(self) -> str:
        """The name of the table it links to."""
        return self.link_to.partition(".")[0]

    @property
    def key(self) -> str:
        """The candidate key that it links to."""
        return self.link_to.partition(".")[2]


@dataclass(frozen=True, config=STRICT)
class Table:
    """A table: where it lies, its keys, and when its rows became known.

    Args:
        name: how other parts of the dataset call it.
        source: a Parquet or CSV file, `shop.duckdb#customers`, or `connection#schema.table`.
        time_column: when a row became known. Without one its rows were always known.
        candidate_keys: columns that name a row. A table with none whose rows link others is an edge table.
        foreign_keys: columns that link its rows to those of other tables, or of itself.
        columns: types of columns where the inferred ones are wrong.
        exclude: columns that are not read.
    """

    name: TableName
    source: Annotated[str, StringConstraints(min_length=1)] = field(kw_only=True)
    time_column: Column | None = field(default=None, kw_only=True)
    candidate_keys: list[Annotated[CandidateKey, BeforeValidator(_column_of)]] = field(
        default_factory=list, kw_only=True
    )
    foreign_keys: list[ForeignKey] = field(default_factory=list, kw_only=True)
    columns: dict[Column, ColumnType] = field(default_factory=dict, kw_only=True)
    exclude: list[Column] = field(default_factory=list, kw_only=True)

    @property
    def keys(self) -> tuple[str, ...]:
        """The columns that hold keys, of its own or of others."""
        own, others = [key.column for key in self.candidate_keys], [key.column for key in self.foreign_keys]
        return tuple(dict.fromkeys((*own, *others)))

    @property
    def is_edge(self) -> bool:
        """Whether it only links: two foreign keys or more, and no key of its own."""
        return not self.candidate_keys and len(self.foreign_keys) > 1


@dataclass(frozen=True, config=STRICT)
class Splits:
    """Where the examples of a task lie: each a table of entities, times and labels. A test split is optional."""

    train: Annotated[str, StringConstraints(min_length=1)] = field(kw_only=True)
    validation: Annotated[str, StringConstraints(min_length=1)] = field(kw_only=True)
    test: Annotated[str, StringConstraints(min_length=1)] | None = field(default=None, kw_only=True)

    def items(self) -> Iterator[tuple[str, str]]:
        """The splits there are: name and source."""
        for name in SPLITS:
            if (source := getattr(self, name)) is not None:
                yield name, source


@dataclass(frozen=True, config=STRICT)
class _Task:
    name: Name
    time_column: Column | None = field(default=None, kw_only=True)
    horizon: Duration | None = field(default=None, kw_only=True)
    source: Splits | None = field(default=None, kw_only=True)
    template: Annotated[str, StringConstraints(min_length=1)] | None = field(default=None, kw_only=True)
    evaluation_metric: str = field(default="", kw_only=True)

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if (self.source is None) == (self.template is None):
            raise ValueError("a task has either a source (train, validation and maybe test) or a template")
        if self.template is not None and (self.horizon is None or self.time_column is None):
            raise ValueError("a task with a template also says its horizon and how its time_column is called")
        if not self.evaluation_metric:
            object.__setattr__(self, "evaluation_metric", self._metrics()[0])
        self._check_metric()
        return self

    def _metrics(self) -> tuple[str, ...]:
        raise NotImplementedError

    def _check_metric(self) -> None:
        if self.evaluation_metric not in self._metrics():
            raise ValueError(f"evaluation_metric is one of {', '.join(self._metrics())}")

    @property
    def maximise(self) -> bool:
        """Whether a larger value of the metric is better."""
        return self.evaluation_metric not in SMALLER_IS_BETTER


@dataclass(frozen=True, config=STRICT)
class NodeTask(_Task):
    """To predict a label of an entity at a time: churn, a value.

    Args:
        name: how the task is called; part of its MLflow experiment's name.
        task_type: what the label is: true or false, one of several classes, several of them (a list), or a number.
        target_entity: the column of the examples that says whom they are about, and the key it links to.
        label_column: what is to be predicted.
        time_column: when a prediction is made: nothing later is seen. Without one, all of every table is seen.
        horizon: how far the label looks ahead, as "7 days". Where stated, earlier labels of an entity are features.
        source: where the examples lie, by split; or
        template: a query that makes them (`tuneloop.relational.make_task`).
        evaluation_metric: what decides which model is best; each task type has a default.
    """

    task_type: NodeTaskType = field(kw_only=True)
    target_entity: ForeignKey = field(kw_only=True)
    label_column: Column = field(kw_only=True)

    @property
    def entity(self) -> ForeignKey:
        """Whom an example is about."""
        return self.target_entity

    def _metrics(self) -> tuple[str, ...]:
        return METRICS[self.task_type]


@dataclass(frozen=True, config=STRICT)
class LinkTask(_Task):
    """To predict which entities of a table will be linked to an entity of another: the next purchases.

    Args:
        name: how the task is called; part of its MLflow experiment's name.
        task_type: `link_prediction` of any links, or `repeated_link_prediction` of those that an entity had before.
        source_entity: the column of the examples that says who is asked about, and the key it links to.
        target_entity: the column that holds what it will be linked to, one or a list, and the key that links to.
        time_column, horizon, source, template: as for `NodeTask`.
        evaluation_metric: `map_at_12`, `precision_at_10`, `recall_at_100`: any k up to 1000.
    """

    task_type: LinkTaskType = field(kw_only=True)
    source_entity: ForeignKey = field(kw_only=True)
    target_entity: ForeignKey = field(kw_only=True)

    @property
    def entity(self) -> ForeignKey:
        """Whom an example is about."""
        return self.source_entity

    @property
    def label_column(self) -> str:
        """What is to be predicted."""
        return self.target_entity.column

    @property
    def k(self) -> int:
        """How many links of each entity the metric looks at."""
        return int(self.evaluation_metric.rpartition("_")[2])

    def _metrics(self) -> tuple[str, ...]:
        return (DEFAULT_LINK_METRIC,)

    def _check_metric(self) -> None:
        name, _, k = self.evaluation_metric.partition("_at_")
        if name not in LINK_METRICS or not (k.isascii() and k.isdigit() and 0 < int(k) <= MAX_K):
            raise ValueError(f"evaluation_metric is one of {', '.join(f'{each}_at_K' for each in LINK_METRICS)}")


Task = Annotated[NodeTask | LinkTask, Field(discriminator="task_type")]
