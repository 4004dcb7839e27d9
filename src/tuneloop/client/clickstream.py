"""The client's calls about what users did: sessions, events, batches, imports, erasure."""

import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import IO, Any, Literal

from tuneloop.client.chunks import Lines, chunks, to_line
from tuneloop.client.transport import NDJSON, Transport
from tuneloop.client.types import Batch, Event, ImportReport, Rejected, SearchResult, Session

ImportFormat = Literal["tuneloop", "ubi"]

_PATH = "/api/v1/clickstream"
_IMPORT_LINES = 1_000
_NAMED = 1_000
_IMPORT_SECONDS = 600.0  # a service that stores a whole UBI log answers late
_SPOOL_BYTES = 16 << 20
_PART_BYTES = 1 << 16


class ClickstreamCalls:
    """What users did. Mixed into `Client`."""

    _transport: Transport

    def add_session(
        self,
        session_id: str,
        search_query: str,
        search_results: Sequence[SearchResult | Mapping[str, Any]],
        *,
        search_meta: Any = None,
        user_id: str | None = None,
        created_at: datetime | float | None = None,
    ) -> None:
        """Store a search: what was asked and what was shown. The same session again changes nothing.

        Args:
            session_id: your id of the search.
            search_query: what the user typed.
            search_results: what was shown, best first; `rank` is the score shown at the time.
            search_meta: anything about the search that you want to keep.
            user_id: your id of the user; `forget_user` finds the session by it.
            created_at: when it happened, as a `datetime` with a time zone or Unix seconds; the default is now.

        Raises:
            ConflictError: another session has this id.
            InvalidInputError: a value is not accepted.

        Example:
            >>> client.add_session("s1", "red shoes", [{"object_id": "a1", "rank": 0.93}], user_id="u1")
        """
        body = {"session_id": session_id, "search_query": search_query, "search_results": list(search_results)}
        more = {"search_meta": search_meta, "user_id": user_id, "created_at": created_at}
        self._transport.call("POST", f"{_PATH}/session", body=body | _given(more))

    def add_events(self, session_id: str, events: Sequence[Event | Mapping[str, Any]]) -> None:
        """Store what the user did with results of a session; an event id that is stored already is ignored.

        Raises:
            NotFoundError: no such session.
            InvalidInputError: an `object_id` is not among the session's results; nothing is stored then.

        Example:
            >>> client.add_events("s1", [{"event_id": "e1", "object_id": "a1"}])  # a click
        """
        self._transport.call("POST", f"{_PATH}/session/events", body={"session_id": session_id, "events": list(events)})

    def mark_irrelevant(self, session_id: str) -> None:
        """Store that the user found nothing relevant in a session.

        Raises:
            NotFoundError: no such session.
        """
        self._transport.call("POST", f"{_PATH}/session/irrelevant", body={"session_id": session_id})

    def get_session(self, session_id: str) -> Session:
        """A session with its events.

        Raises:
            NotFoundError: no such session.
        """
        return Session.parse(self._transport.call("GET", f"{_PATH}/session", params={"session_id": session_id}))

    def import_sessions(
        self,
        records: Iterable[str | bytes | Mapping[str, Any]],
        *,
        format: ImportFormat = "tuneloop",
        progress: Callable[[int], None] | None = None,
    ) -> ImportReport:
        """Store many sessions; good lines are stored, bad ones are named in the answer.

        The records are read as they are sent, so that a generator over a file of any size will do. Sessions go in
        requests of 1,000 lines, each sent again when the connection breaks (sessions stored by the first attempt
        then count as duplicates). Records of a UBI log belong together and go in one request, through a temporary
        file.

        Args:
            records: JSON lines, or mappings: sessions with `events` and `is_irrelevant`, or UBI records.
            format: `ubi` for OpenSearch User Behavior Insights.
            progress: called with the number of records sent so far.
        """
        report = progress or (lambda _: None)
        return self._import_ubi(records, report) if format == "ubi" else self._import_chunks(records, report)

    def _import_chunks(self, records: Lines, report: Callable[[int], None]) -> ImportReport:
        total, sent = ImportReport(), 0
        for chunk in chunks(records, lines=_IMPORT_LINES):
            answer = self._send_import(b"\n".join(chunk), "tuneloop")
            moved = tuple(Rejected(bad.line + sent, bad.error) for bad in answer.rejected)
            total = ImportReport(
                total.accepted + answer.accepted,
                total.duplicates + answer.duplicates,
                (total.rejected + moved)[:_NAMED],
                total.rejected_total + answer.rejected_total,
            )
            sent += len(chunk)
            report(sent)
        return total

    def _import_ubi(self, records: Lines, report: Callable[[int], None]) -> ImportReport:
        with tempfile.SpooledTemporaryFile(_SPOOL_BYTES) as spool:
            count = 0
            for count, record in enumerate(records, start=1):
                spool.write(to_line(record) + b"\n")
                report(count)
            return self._send_import(lambda: _parts(spool), "ubi")

    def _send_import(self, content: bytes | Callable[[], Iterable[bytes]], format: ImportFormat) -> ImportReport:
        answer = self._transport.call(
            "POST",
            f"{_PATH}/sessions/import",
            params={"format": format} if format != "tuneloop" else None,
            content=content,
            content_type=NDJSON,
            timeout=_IMPORT_SECONDS,
        )
        return ImportReport.parse(answer)

    def forget_session(self, session_id: str) -> int:
        """Erase a session with its events, also from stored snapshots; the number of sessions erased."""
        return self._forget("session", session_id=session_id)

    def forget_user(self, user_id: str) -> int:
        """Erase all sessions of a user, also from stored snapshots; the number of sessions erased."""
        return self._forget("user", user_id=user_id)

    def _forget(self, what: str, **params: str) -> int:
        answer = self._transport.call("DELETE", f"{_PATH}/{what}", params=params)
        return int(answer["deleted"])

    def release_batch(self, release_id: str | None = None) -> str:
        """Release the collecting batch for learning; its id. Sessions from now on go into the next one.

        Args:
            release_id: names this release: the same again releases nothing more and gives the same batch. By default
                a new one for each call.

        Raises:
            ConflictError: nothing was collected.
        """
        body = {"release_id": release_id or uuid.uuid4().hex}
        return str(self._transport.call("POST", f"{_PATH}/internal/batch/release", body=body)["batch_id"])

    def batches(self) -> list[Batch]:
        """All batches, the collecting one among them."""
        return list(Batch.parse_all(self._transport.call("GET", f"{_PATH}/internal/batch")["batches"]))

    def batch_sessions(self, batch_id: str, *, page_size: int = 1_000) -> Iterator[Session]:
        """The sessions of a batch with their events, read page by page.

        Raises:
            NotFoundError: no such batch.
        """
        after = None
        while True:
            params = {"batch_id": batch_id, "after": after, "limit": page_size}
            page = self._transport.call("GET", f"{_PATH}/internal/batch/sessions", params=params)
            yield from Session.parse_all(page["sessions"])
            after = page.get("next")
            if after is None:
                return


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    """Those that are not None."""
    return {name: value for name, value in values.items() if value is not None}


def _parts(spool: IO[bytes]) -> Iterator[bytes]:
    """A file from its beginning, in pieces."""
    spool.seek(0)
    while part := spool.read(_PART_BYTES):
        yield part
