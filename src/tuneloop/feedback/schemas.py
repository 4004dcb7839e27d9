"""What clients send about searches, checked: the bodies of the calls and the lines of an import."""

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from tuneloop.feedback.records import Entry, NewEvent, NewSession, Result
from tuneloop.ids import ClientId, JsonValue, check_text, to_micros

MAX_RESULTS = 1_000
MAX_EVENTS = 1_000
MAX_QUERY_LENGTH = 10_000
END_OF_TIME = 4_102_444_800  # 2100-01-01


def check_seconds(value: float) -> float:
    """The Unix time unchanged, when it is in seconds and between 1970 and 2100.

    Raises:
        ValueError: it is negative, or too large, as milliseconds are.
    """
    if value < 0:
        raise ValueError(f"a time is in Unix seconds and not before 1970, {value:g} is negative")
    if value >= END_OF_TIME:
        raise ValueError(f"a time is in Unix seconds and before 2100, {value:.0f} is not: divide milliseconds by 1000")
    return value


def _check_query(value: str) -> str:
    if not value.strip():
        raise ValueError("the query must not be blank")
    return check_text(value)


UnixSeconds = Annotated[
    float,
    Field(allow_inf_nan=False, json_schema_extra={"minimum": 0, "exclusiveMaximum": END_OF_TIME}),
    AfterValidator(check_seconds),
]
Query = Annotated[
    str,
    Field(min_length=1, max_length=MAX_QUERY_LENGTH, json_schema_extra={"pattern": r"\S"}),
    AfterValidator(_check_query),
]
EventType = Annotated[str, Field(min_length=1, max_length=100), AfterValidator(check_text)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class ResultIn(_Body):
    """One result of a search, as shown."""

    object_id: ClientId
    rank: float | None = Field(None, allow_inf_nan=False, description="The score shown at the time; any finite number.")
    meta: JsonValue = None


class SessionIn(_Body):
    """One search: the query and what it showed, best first."""

    session_id: ClientId
    search_query: Query
    search_results: list[ResultIn] = Field(max_length=MAX_RESULTS)
    search_meta: JsonValue = None
    user_id: ClientId | None = None
    created_at: UnixSeconds | None = Field(None, description="Unix seconds; the moment of arrival by default.")

    @field_validator("search_results")
    @classmethod
    def _distinct(cls, results: list[ResultIn]) -> list[ResultIn]:
        seen: set[str] = set()
        for result in results:
            if result.object_id in seen:
                raise ValueError(f"object_id {result.object_id!r} is there twice: send each result once")
            seen.add(result.object_id)
        return results

    def to_new(self) -> NewSession:
        """The session for the store."""
        return NewSession(
            self.session_id,
            self.search_query,
            tuple(Result(result.object_id, result.rank, result.meta) for result in self.search_results),
            self.search_meta,
            self.user_id,
            _micros(self.created_at),
        )


class EventIn(_Body):
    """Something the user did with one result of a session."""

    event_id: ClientId = Field(description="Names the event within its session: sent again, it changes nothing.")
    object_id: ClientId
    event_type: EventType = "click"
    created_at: UnixSeconds | None = Field(None, description="Unix seconds; the moment of arrival by default.")
    meta: JsonValue = None

    def to_new(self) -> NewEvent:
        """The event for the store."""
        return NewEvent(self.event_id, self.object_id, self.event_type, _micros(self.created_at), self.meta)


class EventsIn(_Body):
    """Events of one session."""

    session_id: ClientId
    events: list[EventIn] = Field(max_length=MAX_EVENTS)

    def to_new(self) -> list[NewEvent]:
        """The events for the store."""
        return [event.to_new() for event in self.events]


class IrrelevantIn(_Body):
    """The session whose user said that nothing shown was relevant."""

    session_id: ClientId


class ReleaseIn(_Body):
    """The wish to release the collecting batch."""

    release_id: ClientId = Field(description="Names the release: asked again, it answers the same batch.")


class ImportLine(SessionIn):
    """One line of an import: a session with what came of it."""

    events: list[EventIn] = Field(default_factory=list, max_length=10 * MAX_EVENTS)
    is_irrelevant: bool = False

    @model_validator(mode="after")
    def _events_are_about_results(self) -> "ImportLine":
        shown = {result.object_id for result in self.search_results}
        for position, event in enumerate(self.events):
            if event.object_id not in shown:
                raise ValueError(f"events.{position}: object_id {event.object_id!r} is not among the search_results")
        return self

    def to_entry(self, *, inferred: bool = False) -> Entry:
        """The line for the store."""
        events = tuple(event.to_new() for event in self.events)
        return Entry(self.to_new(), events, self.is_irrelevant, inferred)


def describe(error: ValidationError, most: int = 3) -> str:
    """What is wrong, in one line: the first faults, each with the field it is about."""
    faults = [_fault(fault) for fault in error.errors(include_url=False, include_input=False)]
    more = f" (and {len(faults) - most} more)" if len(faults) > most else ""
    return "; ".join(faults[:most]) + more


def _fault(fault: Any) -> str:
    field = ".".join(str(part) for part in fault["loc"])
    return f"{field}: {fault['msg']}" if field else str(fault["msg"])


def _micros(seconds: float | None) -> int | None:
    return None if seconds is None else to_micros(seconds)
