"""What feedback is made of, as it comes in and as it is kept. All times are microseconds since 1970 (UTC)."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Result:
    """One thing that a search showed; `rank` is the score shown at the time."""

    object_id: str
    rank: float | None = None
    meta: Any | None = None

    def to_json(self) -> dict[str, Any]:
        """As it is stored and answered: without what is not known."""
        known: dict[str, Any] = {"object_id": self.object_id}
        if self.rank is not None:
            known["rank"] = self.rank
        if self.meta is not None:
            known["meta"] = self.meta
        return known


@dataclass(frozen=True)
class NewSession:
    """A session as a client sends it. `search_results` are in the order shown."""

    session_id: str
    search_query: str
    search_results: tuple[Result, ...]
    search_meta: Any | None = None
    user_id: str | None = None
    created_at: int | None = None

    def request_hash(self) -> str:
        """SHA-256 of all that the client sent (not of what was filled in), in hex: the same for a repeat."""
        results = [(result.object_id, result.rank, result.meta) for result in self.search_results]
        sent = (self.session_id, self.search_query, results, self.search_meta, self.user_id, self.created_at)
        return hashlib.sha256(json.dumps(sent, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@dataclass(frozen=True)
class NewEvent:
    """Something a user did with one result, as a client sends it."""

    event_id: str
    object_id: str
    event_type: str = "click"
    created_at: int | None = None
    meta: Any | None = None


@dataclass(frozen=True)
class Event:
    """A stored event."""

    event_id: str
    object_id: str
    event_type: str
    created_at: int
    meta: Any | None


@dataclass(frozen=True)
class Session:
    """A stored session with its events, in the order they arrived."""

    session_id: str
    search_query: str
    search_results: tuple[Result, ...]
    search_meta: Any | None
    user_id: str | None
    created_at: int
    arrived_at: int
    is_irrelevant: bool
    batch_id: str
    events: tuple[Event, ...]


@dataclass(frozen=True)
class Batch:
    """A batch: `status` is `collecting` or `released`; `late_events` came after the release."""

    batch_id: str
    status: str
    sessions: int
    late_events: int
    created_at: int
    released_at: int | None


@dataclass(frozen=True)
class Entry:
    """What an import stores at once: a session, its events, and the user's verdict on it.

    An `inferred` session was worked out from its events alone: where the session is stored already, only its events
    count, and where it is not, it needs a query.
    """

    session: NewSession
    events: tuple[NewEvent, ...] = ()
    is_irrelevant: bool = False
    inferred: bool = False
