"""The features of examples: what a plan says, computed by the engine that holds the rows."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tuneloop.errors import InvalidInput
from tuneloop.relational.feature_queries import Feature, FeatureQueries
from tuneloop.relational.opening import OpenTables
from tuneloop.relational.plan import Plan
from tuneloop.relational.schema import Table

if TYPE_CHECKING:
    import ibis
    import pyarrow as pa

_PLANS = 32  # whose SQL is remembered


@dataclass(frozen=True)
class Features:
    """Features by example: (N, F), NaN where nothing is known, and what each is."""

    values: NDArray[np.floating[Any]]
    columns: tuple[Feature, ...]

    def require(self, names: Sequence[str]) -> None:
        """See that they are those that a model was fitted with.

        Raises:
            InvalidInput: they are others.
        """
        if [each.name for each in self.columns] != list(names):
            raise InvalidInput("the tables' descriptions are not those that the model was fitted with: fit it again")


class Computer:
    """Computes the features of a plan.

    Args:
        plan: what is computed.
        tables: the tables' descriptions.
        data: their rows.
        history: the labelled examples, `key`, `known` (when the label became known) and `label`, in the same engine.
    """

    def __init__(
        self, plan: Plan, tables: Sequence[Table], data: OpenTables, history: ibis.Table | None = None
    ) -> None:
        self._plan = plan
        self._tables = tuple(tables)
        self._data = data
        self._history = history

    def compute(self, examples: ibis.Table, count: int, dtype: type[np.floating[Any]] = np.float32) -> Features:
        """The features of examples.

        Args:
            examples: `row` (0 to count - 1), `key`, `time` and `cut` (timestamps; null to see all).
            count: how many there are.
            dtype: of the values.
        """
        sheet = _Sheet(count, dtype)
        for features, counts, answer in self._answers(examples):
            sheet.put_all(features, answer, zero=counts)
        return sheet.features()

    def _answers(self, examples: ibis.Table) -> Iterator[tuple[tuple[Feature, ...], int, pa.Table]]:
        """What the engine says, by query: from SQL that is written once for a plan where it computes here."""
        used = {table.name: self._data[table.name] for table in self._tables} | {_EXAMPLES: examples}
        if self._history is not None:
            used[_HISTORY] = self._history
        places = {name: place for name, rows in used.items() if (place := self._data.place(rows)) is not None}
        if len(places) < len(used):
            for query in FeatureQueries(self._plan, self._tables, self._data, self._history).of(examples):
                yield query.features, query.counts, query.rows.to_pyarrow()
            return
        for written in _written(_Asked.of(self._plan, self._tables, used)):
            answer = self._data.answer(written.over(places))
            if written.kept:
                place = self._data.place(self._data.bring(answer, "kept"))
                assert place is not None
                places[written.kept] = place
            else:
                yield written.features, written.counts, answer


_EXAMPLES, _HISTORY = "the examples", "their history"  # among the names of tables


@dataclass(frozen=True)
class _Asked:
    """What SQL is written for; the same where the text is."""

    text: str
    plan: Plan = field(compare=False)
    tables: tuple[Table, ...] = field(compare=False)
    schemas: Mapping[str, ibis.Schema] = field(compare=False)

    @classmethod
    def of(cls, plan: Plan, tables: tuple[Table, ...], used: Mapping[str, ibis.Table]) -> _Asked:
        schemas = {name: rows.schema() for name, rows in used.items()}
        columns = {name: [str(each) for each in schema.items()] for name, schema in schemas.items()}
        text = json.dumps([plan.to_json(), [str(replace(table, source="any")) for table in tables], columns])
        return cls(text, plan, tables, schemas)


@dataclass(frozen=True)
class _Written:
    """A query in DuckDB's SQL, over names that stand for those of tables.

    Attributes:
        sql: it.
        names: those in it, by table.
        features, counts: as of `Query`.
        kept: what its answer is called as a table, for queries that come later; no features then.
    """

    sql: str
    names: Mapping[str, str]
    features: tuple[Feature, ...] = ()
    counts: int = 0
    kept: str = ""

    def over(self, places: Mapping[str, str]) -> str:
        """The SQL over the tables that are meant."""
        sql = self.sql
        for table, place in places.items():
            sql = sql.replace(f'"{self.names[table]}"', place)
        return sql


@lru_cache(_PLANS)
def _written(asked: _Asked) -> tuple[_Written, ...]:
    """The queries of a plan as SQL: Ibis takes longer to write it than an engine to answer for few examples."""
    import ibis

    mark = secrets.token_hex(8)  # in no text that somebody else wrote
    names: dict[str, str] = {}
    found: list[_Written] = []

    def standing(table: str, schema: ibis.Schema) -> ibis.Table:
        names[table] = f"{mark}_{len(names)}"
        return ibis.table(schema, name=names[table])

    def keep(rows: ibis.Table) -> ibis.Table:
        kept = f"kept {len(found)}"
        found.append(_Written(ibis.duckdb.compile(rows), names, kept=kept))
        return standing(kept, rows.schema())

    rows = {table: standing(table, schema) for table, schema in asked.schemas.items()}
    queries = FeatureQueries(asked.plan, asked.tables, rows, rows.get(_HISTORY), keep=keep)
    for query in queries.of(rows[_EXAMPLES]):
        found.append(_Written(ibis.duckdb.compile(query.rows), names, query.features, query.counts))
    return tuple(found)


class _Sheet:
    """Columns of features as they come."""

    def __init__(self, count: int, dtype: type[np.floating[Any]]) -> None:
        self._count = count
        self._dtype = dtype
        self._columns: list[Feature] = []
        self._values: list[NDArray[np.floating[Any]]] = []

    def put(self, feature: Feature, at: NDArray[np.int64], column: Any, *, fill: float = np.nan) -> None:
        """One column: the values of some examples, the others filled."""
        values = np.full(self._count, fill, self._dtype)
        values[at] = _encode(column, feature.codes) if feature.codes else _numeric(column)
        self._columns.append(feature)
        self._values.append(values)

    def put_all(self, features: Sequence[Feature], answer: Any, *, zero: int = 0) -> None:
        """The columns `f0…` of an answer; of the first so many a missing example is a zero."""
        at = answer["row"].to_numpy()
        for number, feature in enumerate(features):
            self.put(feature, at, answer[f"f{number}"], fill=0.0 if number < zero else np.nan)

    def features(self) -> Features:
        """All of them, side by side."""
        values = np.empty((self._count, len(self._values)), self._dtype, order="F")
        for number in range(len(self._columns)):
            values[:, number] = self._values[number]
        return Features(values, tuple(self._columns))


def _numeric(column: Any) -> NDArray[np.float64]:
    import pyarrow.compute as pc

    values: NDArray[np.float64] = pc.cast(column, "float64").to_numpy()
    return values


def _encode(column: Any, codes: Sequence[str]) -> NDArray[np.float64]:
    """Texts by their place among the codes; NaN for others."""
    import pyarrow as pa
    import pyarrow.compute as pc

    at = pc.index_in(pc.cast(column, pa.string()), pa.array(codes, pa.string()))
    found: NDArray[np.float64] = pc.cast(at, "float64").to_numpy()
    return found
