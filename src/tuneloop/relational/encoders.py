"""Columns as numbers: their statistics, taken from what was known at the last training time, and the tensors of
PyTorch Frame that they make of a table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch_frame import TensorFrame, stype
from torch_frame.data import MultiEmbeddingTensor, MultiNestedTensor
from torch_frame.data.stats import StatType

from tuneloop.relational.graph import ALWAYS, LABELS, Columns, Graph, Ints, Rows
from tuneloop.relational.opening import OpenTables
from tuneloop.relational.schema import ColumnType, NodeTaskType, Table
from tuneloop.relational.values import column_types, look

Kind = Literal["number", "category", "list", "vector", "text"]
TextVectors = Callable[[Sequence[str]], NDArray[np.float32]]

VOCABULARY = 256
MIN_COUNT = 3  # a value found less often is one of the others
MIN_ROWS_PER_CODE = 30.0  # integers found so often each are looked at as categories, too
QUANTILES = 8
CLOCK = 0.99
_STYPES = {
    "number": stype.numerical,
    "category": stype.categorical,
    "list": stype.multicategorical,
    "vector": stype.embedding,
    "text": stype.embedding,
}


@dataclass(frozen=True)
class Column:
    """How a column is read.

    Attributes:
        name: the column.
        kind: what is made of it.
        quantiles: of numbers, rising; what lies beyond counts as the outermost, the first stands for none.
        vocabulary: the values that have a code of their own.
        size: how many numbers a vector has.
    """

    name: str
    kind: Kind
    quantiles: tuple[float, ...] = ()
    vocabulary: tuple[str, ...] = ()
    size: int = 0

    @property
    def stats(self) -> dict[StatType, Any]:
        """What PyTorch Frame's encoders ask of it."""
        codes = [*range(len(self.vocabulary) + 1)]  # the last is any other value
        counts = (codes, [1] * len(codes))
        stats: dict[str, dict[StatType, Any]] = {
            "number": {StatType.QUANTILES: list(self.quantiles)},
            "category": {StatType.COUNT: counts},
            "list": {StatType.MULTI_COUNT: counts},
        }
        return stats.get(self.kind, {StatType.EMB_DIM: self.size})


@dataclass(frozen=True)
class TableEncoding:
    """How a table is read.

    Attributes:
        columns: by kind, as PyTorch Frame groups them.
        moments: columns that hold times, which are read relative to an example's; the first is that of the row.
    """

    columns: tuple[Column, ...]
    moments: tuple[str, ...]

    def document(self) -> dict[str, Any]:
        """It as JSON values."""
        return asdict(self)

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> TableEncoding:
        """What `document` gave."""
        columns = (
            Column(**(each | {"quantiles": tuple(each["quantiles"]), "vocabulary": tuple(each["vocabulary"])}))
            for each in document["columns"]
        )
        return cls(tuple(columns), tuple(document["moments"]))

    @property
    def names(self) -> dict[stype, list[str]]:
        """Columns by PyTorch Frame's type; a column may be read in two ways."""
        found: dict[stype, list[str]] = {}
        for each in self.columns:
            found.setdefault(_STYPES[each.kind], []).append(f"{each.kind} {each.name}")
        return found

    @property
    def stats(self) -> dict[str, dict[StatType, Any]]:
        """Statistics by those names."""
        return {f"{each.kind} {each.name}": each.stats for each in self.columns}


@dataclass(frozen=True)
class Encoded:
    """A table as tensors.

    Attributes:
        frame: its columns; None where it has none.
        moments: its times, (N, M), microseconds; `ALWAYS` where there is none.
    """

    frame: TensorFrame | None
    moments: Ints


def choose_columns(
    tables: Sequence[Table], data: OpenTables, until: np.datetime64 | None, *, text: bool
) -> dict[str, dict[str, ColumnType]]:
    """The columns that are read, by table, with their types as they were known at the last training time."""
    import ibis

    found = {}
    for table in tables:
        rows = data[table.name]
        if table.time_column is not None and until is not None:
            last = ibis.literal(until.astype("datetime64[us]").item(), "timestamp")
            rows = rows.filter(rows[table.time_column].cast("timestamp") <= last)
        types = column_types(table, rows.schema(), look(rows))
        found[table.name] = {
            name: kind for name, kind in types.items() if name != table.time_column and (text or kind != "text")
        }
    return found


def fit_encoding(
    graph: Graph, columns: Columns, until: int, task_type: NodeTaskType | None, text_size: int
) -> dict[str, TableEncoding]:
    """How each table is read, by its rows up to the last training time.

    Args:
        graph: the rows.
        columns: types by table.
        until: the last training time, microseconds.
        task_type: what the labels are.
        text_size: how many numbers stand for a text.
    """
    found = {}
    for name, rows in graph.tables.items():
        types = dict(columns[name]) if name != LABELS else {"label": _label_type(task_type)}
        known = rows.columns.slice(0, int(np.searchsorted(rows.times, until, side="right")))
        read = [
            column
            for each, kind in types.items()
            if not (rows.timed and kind in ("integer", "float") and _is_clock(known[each]))
            for column in _fit(each, kind, known[each], text_size)
        ]
        order = list(_STYPES)
        read.sort(key=lambda column: order.index(column.kind))
        own = ("",) if rows.timed else ()
        found[name] = TableEncoding(tuple(read), (*own, *(each for each, kind in types.items() if kind == "datetime")))
    return found


def _is_clock(values: pa.ChunkedArray) -> bool:
    """Whether numbers only tell the time, such as years: later ones are like none that was learnt from.

    By the rank correlation with the rows' order, which is that of time.
    """
    from scipy.stats import rankdata

    numbers = _numbers(values)
    numbers = numbers[np.isfinite(numbers)]
    if len(numbers) < 10 or numbers[0] == numbers[-1]:
        return False
    ranks = rankdata(numbers)
    return bool(abs(np.corrcoef(ranks, np.arange(len(ranks)))[0, 1]) > CLOCK)


def _label_type(task_type: NodeTaskType | None) -> ColumnType:
    if task_type == "multilabel_classification":
        return "multi_categorical"
    return "category" if task_type == "multiclass_classification" else "float"


def _fit(name: str, kind: ColumnType, values: pa.ChunkedArray, text_size: int) -> list[Column]:
    """The ways in which a column is read; none where it says nothing."""
    if kind == "text":
        return [Column(name, "text", size=text_size)] if text_size else []
    if kind == "embedding":
        size = pc.max(pc.list_value_length(values)).as_py()
        return [Column(name, "vector", size=size)] if size else []
    if kind == "category":
        vocabulary = _vocabulary(_texts(values))
        return [Column(name, "category", vocabulary=vocabulary)] if vocabulary else []
    if kind == "multi_categorical":
        vocabulary = _vocabulary(_texts(_lists(values).flatten()))
        return [Column(name, "list", vocabulary=vocabulary)] if vocabulary else []
    if kind not in ("integer", "float"):
        return []
    numbers = _numbers(values)
    numbers = numbers[np.isfinite(numbers)]
    distinct = len(np.unique(numbers))
    if distinct < 2:
        return []
    quantiles = np.quantile(numbers, np.linspace(0, 1, QUANTILES + 1)).astype(np.float32)
    absent = 2 * quantiles[0] - quantiles[-1]  # where there is no number: a bucket of its own, below all
    found = [Column(name, "number", quantiles=(float(absent), *quantiles.tolist()))]
    if kind == "integer" and distinct <= VOCABULARY and len(numbers) >= MIN_ROWS_PER_CODE * distinct:
        found.append(Column(name, "category", vocabulary=_vocabulary(_texts(values))))
    return found


def _vocabulary(texts: Any) -> tuple[str, ...]:
    counts = pc.value_counts(texts)
    found = [(each["counts"], each["values"]) for each in counts.to_pylist() if each["values"] is not None]
    found.sort(key=lambda each: (-each[0], each[1]))
    return tuple(value for count, value in found[:VOCABULARY] if count >= MIN_COUNT)


# -- tensors


def encode(graph: Graph, encoding: Mapping[str, TableEncoding], text_vectors: TextVectors | None) -> dict[str, Encoded]:
    """Each table as tensors."""
    return {name: _encode(rows, encoding[name], text_vectors) for name, rows in graph.tables.items()}


def _encode(rows: Rows, encoding: TableEncoding, text_vectors: TextVectors | None) -> Encoded:
    tensors: dict[stype, Any] = {}
    for kind in dict.fromkeys(each.kind for each in encoding.columns if each.kind not in ("vector", "text")):
        read = [(column, rows.columns[column.name]) for column in encoding.columns if column.kind == kind]
        if kind == "number":
            tensors[stype.numerical] = torch.from_numpy(np.stack([_clipped(*each) for each in read], 1))
        elif kind == "category":
            tensors[stype.categorical] = torch.from_numpy(np.stack([_codes(*each) for each in read], 1))
        else:
            tensors[stype.multicategorical] = _nested([_code_lists(*each) for each in read], len(rows))
    vectors = [
        _vectors(column, rows.columns[column.name], text_vectors)
        for column in encoding.columns
        if column.kind in ("vector", "text")
    ]
    if vectors:
        offset = torch.tensor(np.cumsum([0, *(each.shape[1] for each in vectors)]))
        tensors[stype.embedding] = MultiEmbeddingTensor(
            len(rows), len(vectors), torch.from_numpy(np.concatenate(vectors, 1)), offset
        )
    moments = [rows.times if not name else _moments(rows.columns[name]) for name in encoding.moments]
    together = np.stack(moments, 1) if moments else np.zeros((len(rows), 0), np.int64)
    return Encoded(TensorFrame(tensors, encoding.names) if tensors else None, together)


def _numbers(values: Any) -> NDArray[np.float64]:
    found: NDArray[np.float64] = pc.cast(values, pa.float64(), safe=False).to_numpy()
    return found


def _clipped(column: Column, values: Any) -> NDArray[np.float32]:
    numbers = _numbers(values).astype(np.float32)
    clipped = np.clip(numbers, column.quantiles[1], column.quantiles[-1])
    return np.where(np.isnan(numbers), np.float32(column.quantiles[0]), clipped)


def _texts(values: Any) -> Any:
    return pc.cast(values, pa.string())


def _codes(column: Column, values: Any) -> Ints:
    """Places in the vocabulary, the last for any other value; -1 for null."""
    texts = _texts(values)
    found = pc.index_in(texts, pa.array(column.vocabulary, pa.string()))
    found = pc.fill_null(pc.cast(found, pa.int64()), len(column.vocabulary))
    return np.asarray(pc.if_else(pc.is_null(texts), -1, found).to_numpy(), np.int64)


def _lists(values: Any) -> Any:
    """Lists, also of texts with commas."""
    values = values.combine_chunks()
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        return pc.split_pattern_regex(pc.utf8_trim_whitespace(values), r"\s*,\s*")
    return values


def _code_lists(column: Column, values: Any) -> tuple[Ints, Ints]:
    """Codes of all rows, and how many each has."""
    lists = _lists(values)
    lengths = np.asarray(pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False), np.int64)
    return _codes(column, lists.flatten()), lengths


def _nested(columns: list[tuple[Ints, Ints]], count: int) -> MultiNestedTensor:
    lengths = np.stack([each[1] for each in columns], 1)
    offset = np.concatenate([[0], np.cumsum(lengths.reshape(-1))])
    values = np.empty(offset[-1], np.int64)
    for number, (codes, each) in enumerate(columns):
        starts = np.repeat(offset[:-1].reshape(lengths.shape)[:, number], each)
        within = np.arange(len(codes)) - np.repeat(np.cumsum(each) - each, each)
        values[starts + within] = codes
    return MultiNestedTensor(count, len(columns), torch.from_numpy(values), torch.from_numpy(offset))


def _vectors(column: Column, values: Any, text_vectors: TextVectors | None) -> NDArray[np.float32]:
    """Vectors, (N, S); zeros for null."""
    found = np.zeros((len(values), column.size), np.float32)
    values = values.combine_chunks()
    if column.kind == "text":
        assert text_vectors is not None
        coded = pc.dictionary_encode(_texts(values))
        there = pc.is_valid(coded.indices).to_numpy(zero_copy_only=False)
        known = text_vectors(coded.dictionary.to_pylist())
        found[there] = known[coded.indices.drop_null().to_numpy()]
        return found
    lengths = pc.fill_null(pc.list_value_length(values), -1).to_numpy(zero_copy_only=False)
    right = np.flatnonzero(lengths == column.size)
    found[right] = _numbers(values.take(pa.array(right)).flatten()).reshape(-1, column.size)
    return np.nan_to_num(found)


def _moments(values: Any) -> Ints:
    """Times as microseconds; NaT is the smallest number, as `ALWAYS` is."""
    if not pa.types.is_timestamp(values.type):
        values = pc.cast(values, pa.timestamp("us"))
    found: Ints = values.to_numpy().astype("datetime64[us]").astype(np.int64)
    assert np.datetime64("NaT").astype(np.int64) == ALWAYS
    return found
