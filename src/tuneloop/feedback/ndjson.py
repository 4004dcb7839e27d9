"""NDJSON: one JSON document a line."""

from collections.abc import Iterable, Iterator

from pydantic import ValidationError

from tuneloop.feedback.importing import Parsed
from tuneloop.feedback.schemas import ImportLine, describe

MAX_LINE_BYTES = 10_000_000
TOO_LONG = f"the line is longer than {MAX_LINE_BYTES:,} bytes"


class LineSplitter:
    """Cuts a stream of bytes into lines, whatever their length.

    Of a line that is too long only so much is kept that it is still seen to be so: memory stays small.
    """

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, chunk: bytes) -> list[bytes]:
        """The lines that end in this chunk, without their line feeds."""
        *ends, rest = chunk.split(b"\n")
        lines = []
        for end in ends:
            self._keep(end)
            lines.append(bytes(self._rest))
            self._rest.clear()
        self._keep(rest)
        return lines

    def close(self) -> list[bytes]:
        """The last line, when no line feed ended it."""
        return [bytes(self._rest)] if self._rest else []

    def _keep(self, part: bytes) -> None:
        self._rest += part[: MAX_LINE_BYTES + 1 - len(self._rest)]


def numbered(lines: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank, with their numbers from 1, without a byte order mark."""
    for number, line in enumerate(lines, start=1):
        text = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
        if not text.isspace() and text:
            yield number, text


def parse_lines(lines: Iterable[bytes]) -> Iterator[Parsed]:
    """Each line as a session with what came of it, in the format of `ImportLine`."""
    for number, line in numbered(lines):
        size = len(line)
        if size > MAX_LINE_BYTES:
            yield Parsed(number, 0, TOO_LONG)
            continue
        try:
            yield Parsed(number, size, ImportLine.model_validate_json(line).to_entry())
        except ValidationError as error:
            yield Parsed(number, 0, describe(error))
