"""The client's calls about items: what a search can return."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from tuneloop.client.chunks import Lines, chunks
from tuneloop.client.errors import InvalidInputError, TooLargeError, named_elements
from tuneloop.client.transport import NDJSON, Transport, segment
from tuneloop.client.types import ImportReport, Item, Rejected

_PATH = "/api/v1/items"
_CHUNK_ITEMS = 1_000
_MOST_REJECTED = 1_000


class ItemCalls:
    """The items. Mixed into `Client`."""

    _transport: Transport

    def upsert_items(
        self, items: Iterable[Item | Mapping[str, Any]], *, progress: Callable[[int], None] | None = None
    ) -> int:
        """Store items, or replace those with the same `object_id`; the number sent.

        Items go in requests of up to 1,000, each stored as a whole or not at all.

        Args:
            items: `Item`s, or mappings with `object_id`, and `text` or `fields`.
            progress: called with the number stored so far.

        Raises:
            InvalidInputError: an item is not accepted; requests before that one are stored.

        Example:
            >>> client.upsert_items([{"object_id": "a1", "text": "red canvas shoes"}])
            1
        """
        stored = 0
        for chunk in chunks(items, lines=_CHUNK_ITEMS):
            stored += self._send_items(chunk)
            if progress:
                progress(stored)
        return stored

    def import_items(self, records: Lines, *, progress: Callable[[int], None] | None = None) -> ImportReport:
        """Like `upsert_items`, but bad items are left out and named in the answer, by their line.

        Blank lines are passed over. Ends early, with `complete` false, once 1,000 items were rejected.

        Args:
            records: items as JSON lines or mappings.
            progress: called with the number of lines seen so far.
        """
        accepted, seen = 0, 0
        rejected: list[Rejected] = []
        for chunk in chunks(records, lines=_CHUNK_ITEMS):
            numbered = [(number, line) for number, line in enumerate(chunk, start=seen + 1) if line]
            accepted += self._store_good(numbered, rejected)
            seen += len(chunk)
            if progress:
                progress(seen)
            if len(rejected) >= _MOST_REJECTED:
                break
        rejected.sort(key=lambda bad: bad.line)
        complete = len(rejected) < _MOST_REJECTED
        return ImportReport(accepted, 0, tuple(rejected[:_MOST_REJECTED]), len(rejected), complete)

    def _store_good(self, lines: list[tuple[int, bytes]], rejected: list[Rejected]) -> int:
        """Store the good ones of numbered lines, and note the bad ones; the number stored."""
        while lines and len(rejected) < _MOST_REJECTED:
            try:
                return self._send_items([line for _, line in lines])
            except (InvalidInputError, TooLargeError) as error:
                bad = named_elements(error, count=len(lines)) or ({0: error.detail} if len(lines) == 1 else {})
                if not bad:  # the answer does not say which: look in each half
                    half = len(lines) // 2
                    return self._store_good(lines[:half], rejected) + self._store_good(lines[half:], rejected)
                rejected += [Rejected(lines[index][0], reason) for index, reason in bad.items()]
                lines = [line for index, line in enumerate(lines) if index not in bad]
        return 0

    def _send_items(self, lines: list[bytes]) -> int:
        answer = self._transport.call("POST", _PATH, content=b"\n".join(lines), content_type=NDJSON)
        return int(answer["upserted"])

    def get_item(self, object_id: str) -> Item:
        """An item.

        Raises:
            NotFoundError: no such item.
        """
        return Item.parse(self._transport.call("GET", f"{_PATH}/{segment(object_id)}"))

    def items(self, *, page_size: int = 1_000) -> Iterator[Item]:
        """All items by `object_id`, read page by page."""
        after = None
        while True:
            page = self._transport.call("GET", _PATH, params={"after": after, "limit": page_size})
            yield from Item.parse_all(page["items"])
            after = page.get("next")
            if after is None:
                return

    def delete_item(self, object_id: str) -> None:
        """Remove an item.

        Raises:
            NotFoundError: no such item.
        """
        self._transport.call("DELETE", f"{_PATH}/{segment(object_id)}", gone_is_done=404)
