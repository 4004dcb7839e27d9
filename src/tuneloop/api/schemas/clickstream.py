"""The shapes of answers about what people did."""

from typing import Any, Literal

from pydantic import BaseModel, Field

from tuneloop.api.schemas.common import OwnId, Time


class SessionStored(BaseModel):
    """A session is on disk; `new` is false when it was already."""

    session_id: str
    new: bool


class EventsStored(BaseModel):
    """The events are on disk; `new` counts those that were not already."""

    session_id: str
    new: int


class MarkedIrrelevant(BaseModel):
    """A session whose user said that nothing shown was relevant."""

    session_id: str
    is_irrelevant: Literal[True]


class ResultAnswer(BaseModel):
    """A result as it was shown."""

    object_id: str
    rank: float | None = Field(None, description="The score shown at the time.")
    meta: Any = None


class EventAnswer(BaseModel):
    """Something the user did with a result."""

    event_id: str
    object_id: str
    event_type: str
    created_at: Time
    meta: Any = None


class SessionAnswer(BaseModel):
    """A search with all that is known of it."""

    session_id: str
    search_query: str
    search_results: list[ResultAnswer]
    search_meta: Any
    user_id: str | None
    created_at: Time
    is_irrelevant: bool
    batch_id: OwnId
    events: list[EventAnswer]


class SessionPage(BaseModel):
    """Sessions, and the cursor of the next page."""

    sessions: list[SessionAnswer]
    next: str | None


class RejectedLine(BaseModel):
    """A line that was not stored; lines count from 1."""

    line: int
    error: str


class ImportAnswer(BaseModel):
    """What became of an import. `rejected` names the first 1,000 bad lines."""

    accepted: int
    duplicates: int
    rejected: list[RejectedLine]
    rejected_total: int


class Released(BaseModel):
    """The batch that was collecting."""

    batch_id: OwnId


class BatchAnswer(BaseModel):
    """A batch. `late_events` came after their session's release: stored, but not learned from."""

    batch_id: OwnId
    status: Literal["collecting", "released"]
    sessions: int
    late_events: int
    created_at: Time
    released_at: Time | None


class Batches(BaseModel):
    """All batches."""

    batches: list[BatchAnswer]
