"""OpenSearch User Behavior Insights: `ubi_queries` and `ubi_events` records as sessions, one for each query id.

The records of a query may be anywhere in a stream, so all are set aside on disk first, then taken query by query.
See https://github.com/o19s/ubi for the format.
"""

import hashlib
import json
import math
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, ValidationError

from tuneloop.feedback.importing import Parsed
from tuneloop.feedback.ndjson import MAX_LINE_BYTES, TOO_LONG, numbered
from tuneloop.feedback.records import Entry, NewEvent, NewSession, Result
from tuneloop.feedback.schemas import MAX_EVENTS, MAX_RESULTS, EventType, Query, check_seconds, describe
from tuneloop.ids import ClientId, to_micros

MAX_RECORDS = 20_000
_BULK_ACTIONS = ({"index"}, {"create"})
_EVENT_TYPES = {"item_click": "click", "product_click": "click"}
# Who does this to an object has seen it, also where no impression was recorded.
_USES = {"click", "add_to_cart", "purchase"}


def _seconds(moment: datetime) -> datetime:
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    check_seconds(moment.timestamp())
    return moment


def _none_if_blank(value: Any) -> Any:
    return None if isinstance(value, str) and not value.strip() else value


_OptionalId = Annotated[ClientId | None, BeforeValidator(_none_if_blank)]


class _Lenient(BaseModel):
    model_config = ConfigDict(extra="ignore", coerce_numbers_to_str=True)


class _Object(_Lenient):
    object_id: _OptionalId = None


class _Position(_Lenient):
    ordinal: float | None = None


class _Attributes(_Lenient):
    object: _Object | None = None
    position: _Position | None = None


class _Record(_Lenient):
    """What Tuneloop reads of a record; the rest (addresses, browsers, pages) is not even set aside."""

    query_id: ClientId
    user_query: Annotated[Query | None, BeforeValidator(_none_if_blank)] = None
    user_id: _OptionalId = None
    client_id: _OptionalId = None
    timestamp: Annotated[datetime, AfterValidator(_seconds)] | None = None
    query_response_hit_ids: list[ClientId] | None = None
    action_name: EventType | None = None
    event_attributes: _Attributes | None = None
    digest: str = ""

    @property
    def micros(self) -> int | None:
        return None if self.timestamp is None else to_micros(self.timestamp.timestamp())

    @property
    def object_id(self) -> str | None:
        attributes = self.event_attributes
        return attributes.object.object_id if attributes and attributes.object else None

    @property
    def ordinal(self) -> float:
        attributes = self.event_attributes
        ordinal = attributes.position.ordinal if attributes and attributes.position else None
        return math.inf if ordinal is None or math.isnan(ordinal) else ordinal

    @property
    def event_type(self) -> str | None:
        """The kind of event; None for queries, and for impressions, which are results."""
        if self.action_name is None or self.action_name == "impression":
            return None
        return _EVENT_TYPES.get(self.action_name, self.action_name)


@dataclass(frozen=True)
class _Line:
    number: int
    size: int
    record: _Record

    @property
    def when(self) -> tuple[float, int]:
        micros = self.record.micros
        return (math.inf if micros is None else micros, self.number)


def parse_ubi(lines: Iterable[bytes]) -> Iterator[Parsed]:
    """Each query id as a session: the objects shown in the order of their positions, and what was done to them."""
    # A database without a name lies in memory while it is small, then in a file that nobody else can open.
    with closing(sqlite3.connect("", isolation_level=None)) as aside:
        aside.execute("CREATE TABLE records (query_id TEXT, line INTEGER, size INTEGER, record TEXT)")
        aside.execute("BEGIN")
        for number, line in numbered(lines):
            record = _parse_record(line)
            if isinstance(record, str):
                yield Parsed(number, 0, record)
            elif record is not None:
                row = (record.query_id, number, len(line), record.model_dump_json(exclude_none=True))
                aside.execute("INSERT INTO records VALUES (?, ?, ?, ?)", row)
        for query_id, group in groupby(_by_query(aside), key=lambda line: line.record.query_id):
            yield from _parse_query(query_id, group)


def _parse_record(line: bytes) -> _Record | str | None:
    """A record, or what is wrong with the line; None for the action lines of bulk files."""
    if len(line) > MAX_LINE_BYTES:
        return TOO_LONG
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        return f"Invalid JSON: {error}"
    if not isinstance(value, dict):
        return "not a JSON object"
    if value.keys() in _BULK_ACTIONS:
        return None
    if "user_query" not in value and "action_name" not in value:
        return "neither a ubi_queries record (query_id, user_query) nor a ubi_events record (query_id, action_name)"
    if value.get("query_id") is None:
        return "query_id: the record belongs to no query"
    digest = hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
    try:
        return _Record.model_validate(value | {"digest": digest[:32]})
    except ValidationError as error:
        return describe(error)


def _by_query(aside: sqlite3.Connection) -> Iterator[_Line]:
    """The records, query by query, in the order in which each is first mentioned."""
    cursor = aside.execute(
        "SELECT line, size, record FROM records "
        "JOIN (SELECT query_id, min(line) AS first FROM records GROUP BY query_id) USING (query_id) "
        "ORDER BY first, line"
    )
    for number, size, record in cursor:
        yield _Line(number, size, _Record.model_validate_json(record))


def _parse_query(query_id: str, group: Iterator[_Line]) -> Iterator[Parsed]:
    lines: list[_Line] = []
    for line in group:
        if len(lines) == MAX_RECORDS:
            yield Parsed(lines[0].number, 0, f"query {query_id!r} has more than {MAX_RECORDS:,} records")
            return
        lines.append(line)
    first = lines[0].number
    lines.sort(key=lambda line: line.when)
    text = _query_text(lines)
    about = [line for line in lines if line.record.user_query in (None, text)]
    for line in lines:
        if line.record.user_query not in (None, text) and line.record.object_id is not None:
            error = f"user_query: an event of {line.record.user_query!r}, but query {query_id!r} is {text!r}"
            yield Parsed(line.number, 0, error)
    shown = _shown(about)
    events = _events(about, shown)
    queries = [line for line in about if line.record.action_name is None]
    if not shown:
        error = f"query {query_id!r} shows no object: neither hit ids, nor impressions, nor clicks"
    elif len(shown) > MAX_RESULTS or len(events) > 10 * MAX_EVENTS:
        error = f"query {query_id!r} has {len(shown):,} results and {len(events):,} events, too many for a session"
    elif queries and text is None:
        error = f"user_query: the query {query_id!r} is blank"
    else:
        user = next((line.record.user_id or line.record.client_id for line in about if _has_user(line.record)), None)
        results = tuple(map(Result, shown))
        created_at = (queries or about)[0].record.micros
        session = NewSession(query_id, text or "", results, user_id=user, created_at=created_at)
        size = sum(line.size for line in lines)
        yield Parsed(first, size, Entry(session, events, inferred=not queries))
        return
    yield Parsed(first, 0, error)


def _has_user(record: _Record) -> bool:
    return bool(record.user_id or record.client_id)


def _query_text(lines: list[_Line]) -> str | None:
    """The text that the session is about. A query id can have several, where people type on: what they acted upon
    counts first, then what they were shown, then what they asked."""

    def rank(line: _Line) -> int:
        record = line.record
        if record.object_id is not None:
            return 0 if record.event_type else 1
        if record.action_name is None:
            return 2 if record.query_response_hit_ids else 3
        return 4

    return min((line for line in lines if line.record.user_query), key=rank, default=lines[0]).record.user_query


def _shown(lines: list[_Line]) -> dict[str, None]:
    """The objects shown, in order: the hits, then what else was seen or used, by its position."""
    shown = {hit: None for line in lines for hit in line.record.query_response_hit_ids or ()}
    seen = [line.record for line in lines if line.record.event_type is None or line.record.event_type in _USES]
    for record in sorted(seen, key=lambda record: record.ordinal):
        if record.object_id is not None:
            shown.setdefault(record.object_id)
    return shown


def _events(lines: list[_Line], shown: dict[str, None]) -> tuple[NewEvent, ...]:
    """What was done to the objects shown; filters, sorts and the like are about none of them."""
    found: dict[str, NewEvent] = {}
    for line in lines:
        record = line.record
        if record.event_type and record.object_id in shown and record.object_id is not None:
            event = NewEvent(record.digest, record.object_id, record.event_type, record.micros)
            found.setdefault(record.digest, event)
    return tuple(found.values())
