"""Importing many sessions: stored in chunks, each chunk one transaction; what is bad is named and left out."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from tuneloop.database import Database
from tuneloop.feedback.batches import take_turns_importing
from tuneloop.feedback.recording import Outcome, record
from tuneloop.feedback.records import Entry

CHUNK_LINES = 500
CHUNK_BYTES = 8_000_000
MAX_REPORTED = 1_000


@dataclass(frozen=True)
class Parsed:
    """What a line (from 1) came to: an entry, or the reason why it is none. `size` is that of its text in bytes."""

    line: int
    size: int
    result: Entry | str


@dataclass(frozen=True)
class Rejected:
    """A line that was not stored, counted from 1, and why."""

    line: int
    error: str


@dataclass
class ImportReport:
    """What became of an import's sessions. `rejected` holds the first 1,000 of `rejected_total`."""

    accepted: int = 0
    duplicates: int = 0
    rejected: list[Rejected] = field(default_factory=list)
    rejected_total: int = 0

    def reject(self, line: int, error: str) -> None:
        """Count a bad line, and name it unless too many are named already."""
        self.rejected_total += 1
        if len(self.rejected) < MAX_REPORTED:
            self.rejected.append(Rejected(line, error))


def import_entries(database: Database, parsed: Iterable[Parsed]) -> ImportReport:
    """Store the entries and report. A session that gained events or a verdict counts as accepted."""
    report = ImportReport()
    for chunk in _chunks(parsed):
        with database.write() as connection:
            take_turns_importing(connection)
            outcomes = iter(record(connection, [item.result for item in chunk if isinstance(item.result, Entry)]))
        for item in chunk:
            if isinstance(item.result, str):
                report.reject(item.line, item.result)
                continue
            match next(outcomes):
                case Outcome.NEW | Outcome.ADDED:
                    report.accepted += 1
                case Outcome.SAME:
                    report.duplicates += 1
                case refused:
                    report.reject(item.line, f"{item.result.session.session_id!r}: {refused.value}")
    report.rejected.sort(key=lambda rejected: rejected.line)
    return report


def _chunks(parsed: Iterable[Parsed]) -> Iterator[list[Parsed]]:
    chunk: list[Parsed] = []
    size = 0
    for item in parsed:
        chunk.append(item)
        size += item.size
        if len(chunk) == CHUNK_LINES or size >= CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
