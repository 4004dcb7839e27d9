"""Search sessions as arrays, read from Arrow tables."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

ZERO, FALSE = pa.scalar(0), pa.scalar(False)


@dataclass(frozen=True)
class Sessions:
    """S sessions with R results, as compressed rows: results `starts[s]:starts[s + 1]` belong to session s.

    Attributes:
        query: the row of each session's query text, (S,) int64.
        irrelevant: whether the user said that nothing shown was relevant, (S,) bool.
        starts: where each session's results begin, (S + 1,) int64.
        result: the row of each result's item text, -1 when it is not known, (R,) int64.
        clicked: (R,) bool.
        position: where the result was shown, the first at 1, (R,) int64.
    """

    query: NDArray[np.int64]
    irrelevant: NDArray[np.bool_]
    starts: NDArray[np.int64]
    result: NDArray[np.int64]
    clicked: NDArray[np.bool_]
    position: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.query)

    @property
    def session(self) -> NDArray[np.int64]:
        """The session that each result belongs to, (R,)."""
        return np.repeat(np.arange(len(self)), np.diff(self.starts))

    def count(self, mask: NDArray[np.bool_]) -> NDArray[np.int64]:
        """How many results of each session are in `mask` (R,): (S,)."""
        return np.bincount(self.session[mask], minlength=len(self))

    def select(self, sessions: NDArray[np.int64] | NDArray[np.bool_]) -> Sessions:
        """Some of the sessions, by indices or a mask over sessions, in that order."""
        chosen = np.flatnonzero(sessions) if sessions.dtype == np.bool_ else sessions
        lengths = np.diff(self.starts)[chosen]
        starts = np.concatenate([[0], np.cumsum(lengths)])
        flat = np.repeat(self.starts[chosen] - starts[:-1], lengths) + np.arange(starts[-1])
        return Sessions(
            self.query[chosen],
            self.irrelevant[chosen],
            starts,
            self.result[flat],
            self.clicked[flat],
            self.position[flat],
        )

    def keep(self, results: NDArray[np.bool_]) -> Sessions:
        """The same sessions with only the results in the mask (R,); positions stay those that were shown."""
        starts = np.concatenate([[0], np.cumsum(self.count(results))])
        return Sessions(
            self.query, self.irrelevant, starts, self.result[results], self.clicked[results], self.position[results]
        )

    def join(self, others: Sessions) -> Sessions:
        """These sessions and after them the others."""
        return Sessions(
            np.concatenate([self.query, others.query]),
            np.concatenate([self.irrelevant, others.irrelevant]),
            np.concatenate([self.starts, self.starts[-1] + others.starts[1:]]),
            np.concatenate([self.result, others.result]),
            np.concatenate([self.clicked, others.clicked]),
            np.concatenate([self.position, others.position]),
        )

    @property
    def seen(self) -> NDArray[np.bool_]:
        """Which results the user looked at, to judge by the clicks, (R,): those down to the one below the last click.

        After the strategies "last click > skip above" and "click > no-click next" of Joachims et al., Accurately
        Interpreting Clickthrough Data as Implicit Feedback, 2005, section 5. Of an irrelevant session it is all.
        """
        session = self.session
        last = np.zeros(len(self), np.int64)
        np.maximum.at(last, session[self.clicked], self.position[self.clicked])
        return self.irrelevant[session] | (self.position <= last[session] + 1)


@dataclass(frozen=True)
class Log:
    """Sessions and their texts: `query` counts in `queries`, `result` in `items`.

    Attributes:
        sessions: those of the batch.
        earlier: some of earlier batches.
        queries, items: distinct texts.
        score: by which each result of `sessions` was ranked when it was shown, NaN where it is not known, (R,).
    """

    sessions: Sessions
    earlier: Sessions
    queries: list[str]
    items: list[str]
    score: NDArray[np.float64]


def read_log(
    sessions: pa.Table,
    items: pa.Table,
    *,
    earlier: pa.Table | None = None,
    click_types: Collection[str] = ("click",),
) -> Log:
    """Read sessions and items from Arrow tables; each distinct text is one row.

    Args:
        sessions: columns `search_query`, `results` (list of {object_id, ...} as shown), `events` (list of
            {object_id, event_type, ...}) and `is_irrelevant`; others are ignored. The results' `rank`, if there is
            one, is the score that they were ranked by.
        items: columns `object_id` and `text`; an item without text counts as unknown.
        earlier: sessions of earlier batches, in the same columns.
        click_types: the event types that count as a click.
    """
    count = len(sessions)
    if earlier is not None and len(earlier):
        sessions = pa.concat_tables([sessions, earlier])
    query, queries = _distinct(sessions["search_query"])
    known = items.filter(pc.fill_null(pc.greater(pc.utf8_length(pc.utf8_trim_whitespace(items["text"])), ZERO), FALSE))
    item_row, item_texts = _distinct(known["text"])
    shown, starts = _flatten(sessions["results"])
    events, event_starts = _flatten(sessions["events"])
    place = _places(shown.field("object_id"), known["object_id"])
    result = np.where(place >= 0, item_row[place] if len(item_row) else -1, -1)
    lengths = np.diff(starts)
    columns = Sessions(
        query,
        np.asarray(pc.fill_null(sessions["is_irrelevant"], FALSE), bool),
        starts,
        result,
        _clicked(shown, starts, events, event_starts, click_types),
        np.arange(len(result)) - np.repeat(starts[:-1], lengths) + 1,
    )
    own = np.arange(len(columns)) < count
    return Log(columns.select(own), columns.select(~own), queries, item_texts, _scores(shown)[: starts[count]])


def _array(column: Any) -> Any:
    """A column in one piece."""
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _distinct(column: Any) -> tuple[NDArray[np.int64], list[str]]:
    encoded = _array(column).dictionary_encode()
    return np.asarray(encoded.indices, np.int64), encoded.dictionary.to_pylist()


def _places(ids: Any, known: Any) -> NDArray[np.int64]:
    """Where each id stands among the known ones, -1 for those that do not."""
    found: Any = pc.index_in(ids, value_set=_array(known))
    return np.asarray(found.fill_null(-1), np.int64)


def _scores(shown: Any) -> NDArray[np.float64]:
    """The `rank` of each result, NaN for those without, (R,)."""
    if shown.type.get_field_index("rank") < 0:
        return np.full(len(shown), np.nan)
    return np.asarray(pc.fill_null(shown.field("rank").cast(pa.float64()), np.nan), np.float64)


def _flatten(column: Any) -> tuple[Any, NDArray[np.int64]]:
    """The values of a list column, one after the other, and where each list starts."""
    lengths: Any = pc.list_value_length(column)
    values: Any = pc.list_flatten(column)
    return _array(values), np.concatenate([[0], np.cumsum(lengths.fill_null(0).to_numpy())]).astype(np.int64)


def _clicked(
    shown: Any,
    starts: NDArray[np.int64],
    events: Any,
    event_starts: NDArray[np.int64],
    click_types: Collection[str],
) -> NDArray[np.bool_]:
    """Which results have an event that counts as a click in their own session, (R,)."""
    types: Any = pc.is_in(events.field("event_type"), value_set=pa.array(list(click_types), pa.string()))
    is_click = np.asarray(types, bool)
    code, ids = _distinct(pa.chunked_array([shown.field("object_id"), events.field("object_id")]))
    size = max(len(ids), 1)
    shown_key = np.repeat(np.arange(len(starts) - 1), np.diff(starts)) * size + code[: len(shown)]
    event_key = np.repeat(np.arange(len(event_starts) - 1), np.diff(event_starts)) * size + code[len(shown) :]
    return np.isin(shown_key, event_key[is_click])
