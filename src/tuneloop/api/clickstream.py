"""What people searched, saw and did."""

from typing import Annotated, Any

from fastapi import APIRouter, Body, Query

from tuneloop.api.backend import BackendDep
from tuneloop.api.bodies import JsonRoute
from tuneloop.api.responses import failures
from tuneloop.api.schemas.clickstream import (
    Batches,
    EventsStored,
    MarkedIrrelevant,
    Released,
    SessionAnswer,
    SessionPage,
    SessionStored,
)
from tuneloop.api.schemas.common import MAX_LIMIT, Deleted
from tuneloop.feedback.records import Session
from tuneloop.feedback.schemas import EventsIn, IrrelevantIn, ReleaseIn, SessionIn
from tuneloop.ids import ClientId, iso

router = APIRouter(prefix="/api/v1/clickstream", route_class=JsonRoute)

_SESSION = {
    "session_id": "s-1",
    "search_query": "red summer dress",
    "search_results": [{"object_id": "dress/17", "rank": 0.83}, {"object_id": "skirt/4", "rank": 0.61}],
    "user_id": "u-42",
    "created_at": 1703169025.5,
}
_EVENTS = {"session_id": "s-1", "events": [{"event_id": "e-1", "object_id": "dress/17", "created_at": 1703169030}]}


@router.post("/session", tags=["Clickstream"], summary="Store a session", responses=failures(409, 413))
def add_session(session: Annotated[SessionIn, Body(examples=[_SESSION])], backend: BackendDep) -> SessionStored:
    """Store one search. The same session again changes nothing; another one with its id is refused."""
    new = backend.feedback.add_session(session.to_new())
    backend.metrics.sessions.inc(new)
    return SessionStored(session_id=session.session_id, new=new)


@router.get(
    "/session",
    tags=["Clickstream"],
    summary="One session with its events",
    response_model=SessionAnswer,
    response_model_exclude_unset=True,
    responses=failures(404),
)
def get_session(session_id: Annotated[ClientId, Query()], backend: BackendDep) -> dict[str, Any]:
    """One session, with its events, whether it is irrelevant, and the batch it is in."""
    return _session(backend.feedback.get_session(session_id))


@router.post("/session/events", tags=["Clickstream"], summary="Store events", responses=failures(404, 413))
def add_events(body: Annotated[EventsIn, Body(examples=[_EVENTS])], backend: BackendDep) -> EventsStored:
    """Store what the user did with results of a session: all of the call's events or none. Each `event_id` counts
    once within its session."""
    new = backend.feedback.add_events(body.session_id, body.to_new())
    backend.metrics.events.inc(new)
    return EventsStored(session_id=body.session_id, new=new)


@router.post(
    "/session/irrelevant", tags=["Clickstream"], summary="Mark a session irrelevant", responses=failures(404, 413)
)
def mark_irrelevant(body: IrrelevantIn, backend: BackendDep) -> MarkedIrrelevant:
    """Note that the user found nothing shown relevant."""
    backend.feedback.mark_irrelevant(body.session_id)
    return MarkedIrrelevant(session_id=body.session_id, is_irrelevant=True)


@router.delete("/session", tags=["Clickstream"], summary="Forget a session", responses=failures())
def forget_session(session_id: Annotated[ClientId, Query()], backend: BackendDep) -> Deleted:
    """Remove a session and its events, also from every stored snapshot."""
    return Deleted(deleted=backend.erasure.forget_session(session_id))


@router.delete("/user", tags=["Clickstream"], summary="Forget a user", responses=failures())
def forget_user(user_id: Annotated[ClientId, Query()], backend: BackendDep) -> Deleted:
    """Remove all sessions of a user and their events, also from every stored snapshot."""
    return Deleted(deleted=backend.erasure.forget_user(user_id))


@router.post(
    "/internal/batch/release", tags=["Batches"], summary="Release the collecting batch", responses=failures(409, 413)
)
def release(body: ReleaseIn, backend: BackendDep) -> Released:
    """Close the collecting batch for learning. The same `release_id` again gives the same batch."""
    return Released(batch_id=backend.feedback.release(body.release_id))


@router.get("/internal/batch", tags=["Batches"], summary="All batches", response_model=Batches, responses=failures())
def batches(backend: BackendDep) -> dict[str, Any]:
    """All batches, with the number of sessions in each."""
    return {
        "batches": [
            {
                "batch_id": batch.batch_id,
                "status": batch.status,
                "sessions": batch.sessions,
                "late_events": batch.late_events,
                "created_at": iso(batch.created_at),
                "released_at": None if batch.released_at is None else iso(batch.released_at),
            }
            for batch in backend.feedback.batches()
        ]
    }


@router.get(
    "/internal/batch/sessions",
    tags=["Batches"],
    summary="The sessions of a batch",
    response_model=SessionPage,
    response_model_exclude_unset=True,
    responses=failures(404),
)
def batch_sessions(
    batch_id: Annotated[ClientId, Query()],
    backend: BackendDep,
    after: Annotated[str | None, Query(description="The `next` of the page before.", max_length=2000)] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_LIMIT)] = 100,
) -> dict[str, Any]:
    """A page of the sessions of a batch, in the order they arrived."""
    sessions, following = backend.feedback.batch_sessions(batch_id, after=after, limit=limit)
    return {"sessions": [_session(session) for session in sessions], "next": following}


def _session(session: Session) -> dict[str, Any]:
    """The answer for a session; results and events keep to the fields that they were sent with."""
    return {
        "session_id": session.session_id,
        "search_query": session.search_query,
        "search_results": [result.to_json() for result in session.search_results],
        "search_meta": session.search_meta,
        "user_id": session.user_id,
        "created_at": iso(session.created_at),
        "is_irrelevant": session.is_irrelevant,
        "batch_id": session.batch_id,
        "events": [
            _known(
                {
                    "event_id": event.event_id,
                    "object_id": event.object_id,
                    "event_type": event.event_type,
                    "created_at": iso(event.created_at),
                    "meta": event.meta,
                }
            )
            for event in session.events
        ],
    }


def _known(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
