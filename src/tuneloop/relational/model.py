"""A model learnt from tables: what it was learnt from and for, and one or more fitted learners that predict together.

It is a folder of JSON and what the learners write, and holds no rows: predictions read the tables again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from tuneloop.errors import InvalidInput
from tuneloop.relational.blend import combine
from tuneloop.relational.dataset import Dataset
from tuneloop.relational.examples import Examples, read_examples
from tuneloop.relational.learner import Fitted, Links, Predictions, Silent, Watcher, learners_for
from tuneloop.relational.opening import OpenTables, open_tables
from tuneloop.relational.outcomes import Correction
from tuneloop.relational.schema import LinkTask, NodeTask
from tuneloop.relational.sources import Sources

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT = 1
_FILE = "model.json"


@dataclass(frozen=True)
class Part:
    """A fitted learner, and how much its predictions count beside the others'."""

    fitted: Fitted
    weight: float = 1.0


class TableModel:
    """Predicts for entities at times.

    Args:
        dataset: the tables and the task that it was learnt from and for.
        parts: the fitted learners.
        classes: the names of classes, in the order of predictions; empty where these are numbers.
        correction: how predictions are moved by what became of others since; None: not at all.
    """

    def __init__(
        self,
        dataset: Dataset,
        parts: Sequence[Part],
        classes: Sequence[str] = (),
        correction: Correction | None = None,
    ) -> None:
        self.dataset = dataset
        self.parts = tuple(parts)
        self.classes = tuple(classes)
        self.correction = correction

    @property
    def task(self) -> NodeTask | LinkTask:
        """What is predicted."""
        return task_of(self.dataset)

    def predict(
        self,
        entities: pa.Table,
        *,
        sources: Sources,
        dataset: Dataset | None = None,
        memory_gb: float = 4,
        embeddings: bool = False,
        watcher: Watcher | None = None,
    ) -> pa.Table:
        """Predictions in the order of the entities.

        Args:
            entities: the column of the task's entity, and its time column where it has one.
            sources: which tables may be read.
            dataset: where to read the tables instead of where they were when it was learnt.
            memory_gb: what the engine may use, in GiB.
            embeddings: whether to add the entities' embeddings.
            watcher: whoever waits.

        Returns:
            The entities with `prediction` (a number, a class, a list of classes, or a list of `key` and `score`),
            `probabilities` of classes, and `embedding`, float32 of a fixed size, where asked for.

        Raises:
            InvalidInput: a column is missing or of the wrong type, a table cannot be read, or no part of the model
                makes embeddings.
        """
        dataset = self.dataset if dataset is None else self._like(dataset)
        watcher = watcher or Silent()
        with opened(dataset, sources, memory_gb=memory_gb) as (data, labelled):
            examples = self._examples(dataset, entities, data)
            found = self.predict_examples(dataset, data, examples, labelled, watcher)
            answer = self._with_predictions(entities, found)
            if embeddings:
                answer = answer.append_column("embedding", self._embeddings(dataset, data, examples, labelled, watcher))
        return answer

    def predict_examples(
        self, dataset: Dataset, data: OpenTables, examples: Examples, labelled: Examples | None, watcher: Watcher
    ) -> Predictions:
        """Predictions of examples of open tables."""
        if self.correction is None or labelled is None or not isinstance(self.task, NodeTask):
            return self._uncorrected(dataset, data, examples, labelled, watcher)
        labelled = replace(labelled, keys=labelled.keys.cast(examples.keys.type))
        looked_at = self.correction.outcomes(self.task, examples, labelled)
        rows = looked_at.rows
        if not len(rows):
            return self._uncorrected(dataset, data, examples, labelled, watcher)
        earlier = labelled.take(rows)
        both = replace(examples, labels=None) + earlier  # one look at the tables
        found = self._uncorrected(dataset, data, both, labelled, watcher)
        assert not isinstance(found, Links)
        own, others = np.split(found, [len(examples)])
        return self.correction.corrected(self.task, examples, own, earlier, others, looked_at.among(rows))

    def _uncorrected(
        self, dataset: Dataset, data: OpenTables, examples: Examples, labelled: Examples | None, watcher: Watcher
    ) -> Predictions:
        parts = [part for part in self.parts if part.weight > 0]
        found = [part.fitted.predict(dataset, data, examples, labelled, watcher) for part in parts]
        return combine(found, [part.weight for part in parts])

    def save(self, folder: Path) -> None:
        """Write it to a folder that is not there yet."""
        folder.mkdir(parents=True)
        written = []
        for number, part in enumerate(self.parts):
            name = f"part-{number}"
            (folder / name).mkdir()
            part.fitted.save(folder / name)
            written.append({"learner": part.fitted.learner, "weight": part.weight, "folder": name})
        document = {
            "format": FORMAT,
            "dataset": self.dataset.document(),
            "classes": list(self.classes),
            "parts": written,
            "correction": None if self.correction is None else self.correction.to_json(),
        }
        (folder / _FILE).write_text(json.dumps(document, indent=1), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote. Nothing is unpickled.

        Raises:
            InvalidInput: it was written by another version, or its learner's libraries are not installed.
        """
        document = json.loads((folder / _FILE).read_text(encoding="utf-8"))
        if document["format"] != FORMAT:
            raise InvalidInput(f"the model has the format {document['format']}, and this version reads {FORMAT}")
        dataset = Dataset.parse(document["dataset"])
        learners = learners_for(dataset)
        parts = []
        for part in document["parts"]:
            if part["learner"] not in learners:
                raise InvalidInput(
                    f"the model needs the learner {part['learner']!r}: install the extras tuneloop[tables,gnn]"
                )
            fitted = learners[part["learner"]].fitted.load(folder / part["folder"])
            parts.append(Part(fitted, float(part["weight"])))
        correction = document.get("correction")  # older models have none
        return cls(dataset, parts, document["classes"], correction and Correction.from_json(correction))

    # -- from entities to examples

    def _like(self, dataset: Dataset) -> Dataset:
        """A dataset with other sources, and the model's own task where it has none.

        Raises:
            InvalidInput: it has not the tables that the model was learnt from.
        """
        missing = {table.name for table in self.dataset.tables} - {table.name for table in dataset.tables}
        if missing:
            raise InvalidInput(
                f"the model was learnt from tables that this dataset has not: {', '.join(sorted(missing))}",
                field="params.dataset",
            )
        sources = {table.name: table.source for table in dataset.tables}
        document = self.dataset.document()
        for table in document["tables"]:
            table["source"] = sources[table["name"]]
        if dataset.task is not None and dataset.task.source is not None:
            document["task"]["source"] = dict(dataset.task.source.items())
        return Dataset.parse(document)

    def _examples(self, dataset: Dataset, entities: pa.Table, data: OpenTables) -> Examples:
        import pyarrow as pa

        entity = task_of(dataset).entity
        key_type = data[entity.table].schema()[entity.key].to_pyarrow()
        keys = _column(entities, entity.column)
        try:
            keys = keys.cast(pa.string() if pa.types.is_large_string(key_type) else key_type)
        except pa.ArrowInvalid as error:
            raise InvalidInput(f"{entity.column} is no {key_type}: {error}", field=entity.column) from None
        times = _times(entities, task_of(dataset).time_column)
        return Examples(keys, times, times.copy())

    # -- from predictions to columns

    def _with_predictions(self, entities: pa.Table, found: Predictions) -> pa.Table:
        import pyarrow as pa

        if isinstance(found, Links):
            return entities.append_column("prediction", _links(found))
        if found.ndim == 1:
            return entities.append_column("prediction", pa.array(found))
        names = np.asarray(self.classes, dtype=object)
        if self.task.task_type == "multiclass_classification":
            chosen = pa.array(names[found.argmax(1)].tolist(), pa.string())
        else:
            chosen = pa.array([names[row >= 0.5].tolist() for row in found], pa.list_(pa.string()))
        each = pa.StructArray.from_arrays([pa.array(column) for column in found.T], names=list(self.classes))
        return entities.append_column("prediction", chosen).append_column("probabilities", each)

    def _embeddings(
        self, dataset: Dataset, data: OpenTables, examples: Examples, labelled: Examples | None, watcher: Watcher
    ) -> Any:
        import pyarrow as pa

        for part in self.parts:
            found = part.fitted.embed(dataset, data, examples, labelled, watcher)
            if found is not None:
                return pa.FixedSizeListArray.from_arrays(pa.array(found.ravel(), pa.float32()), found.shape[1])
        raise InvalidInput(
            "this model makes no embeddings: learn with the graph learner (settings: learners: [gnn])",
            field="embeddings",
        )


def task_of(dataset: Dataset) -> NodeTask | LinkTask:
    """The task of a dataset that is learnt from.

    Raises:
        InvalidInput: it has none.
    """
    if dataset.task is None:
        raise InvalidInput("this dataset has no task: say what to predict", field="dataset.task")
    return dataset.task


@contextmanager
def opened(
    dataset: Dataset, sources: Sources, *, memory_gb: float, splits: bool = False
) -> Iterator[tuple[OpenTables, Examples | None]]:
    """The tables of a dataset, and its labelled examples where a prediction may look at earlier labels.

    Args:
        dataset: the tables and the task.
        sources: which may be read.
        memory_gb: what the engine may use, in GiB.
        splits: whether to read the labelled examples in any case; they are also tables `task.train` and so on.

    Raises:
        InvalidInput: one cannot be read.
    """
    task = task_of(dataset)
    wanted = {table.name: table.source for table in dataset.tables}
    labels = dict(task.source.items()) if task.source is not None and (splits or task.horizon is not None) else {}
    wanted |= {f"task.{name}": source for name, source in labels.items()}
    with open_tables(wanted, sources, memory_gb=memory_gb) as data:
        for name, problem in data.problems.items():
            raise InvalidInput(f"{name}: {problem}")
        examples = read_examples(task, {name: data[f"task.{name}"] for name in labels})
        labelled: Examples | None = None
        for each in examples.values():
            labelled = each if labelled is None else labelled + each
        yield data, labelled


def _column(entities: pa.Table, name: str) -> Any:
    if name not in entities.column_names:
        there = ", ".join(entities.column_names) or "none"
        raise InvalidInput(f"the column {name} is missing; there are: {there}", field=name)
    return entities[name]


def _times(entities: pa.Table, name: str | None) -> Any:
    import pyarrow as pa

    if name is None:
        return np.full(len(entities), np.datetime64("NaT", "us"))
    column = _column(entities, name)
    try:
        if pa.types.is_timestamp(column.type) and column.type.tz is not None:
            column = column.cast(pa.timestamp("us", "UTC"))
        column = column.cast(pa.timestamp("us"))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise InvalidInput(f"{name} is no time: {error}", field=name) from None
    if column.null_count:
        raise InvalidInput(f"{name} is empty in {column.null_count} rows", field=name)
    return column.to_numpy().astype("datetime64[us]")


def _links(found: Links) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    count, width = found.scores.shape
    there = pc.is_valid(found.keys).to_numpy(zero_copy_only=False)
    sizes = there.reshape(count, width).sum(1)
    pairs = pa.StructArray.from_arrays(
        [found.keys.filter(pa.array(there)), pa.array(found.scores.ravel()[there])], names=["key", "score"]
    )
    return pa.ListArray.from_arrays(pa.array(np.concatenate([[0], np.cumsum(sizes)]), pa.int32()), pairs)
