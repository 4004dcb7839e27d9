"""The catalogue: the items that search can return, by their id."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import sqlalchemy as sa

from tuneloop.catalog.tables import items
from tuneloop.database import Database, insert
from tuneloop.errors import InvalidInput, NotFound
from tuneloop.ids import check_opaque_id, decode_cursor, encode_cursor, now_micros


@dataclass(frozen=True)
class Item:
    """A thing that search can return, and what describes it."""

    object_id: str
    text: str | None = None
    fields: dict[str, Any] | None = None

    @property
    def content(self) -> str:
        """What a model reads: the text, or the values of the fields where there is none."""
        return self.text if self.text is not None else " ".join(_words(self.fields))


class Catalog:
    """Items by `object_id`, in the order of its code points. Whatever a call has returned from is on disk."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def upsert(self, items_: Sequence[Item]) -> int:
        """Store items, all or none, in place of those with their ids; returns how many distinct ids there were."""
        now = now_micros()
        # In one order, so that two calls with the same items do not block each other.
        latest = sorted({item.object_id: item for item in items_}.values(), key=lambda item: item.object_id)
        if not latest:
            return 0
        values = [
            {"object_id": item.object_id, "text": item.text, "fields": item.fields, "updated_at": now}
            for item in latest
        ]
        with self._database.write() as connection:
            statement = insert(connection, items)
            new = {name: statement.excluded[name] for name in ("text", "fields", "updated_at")}
            connection.execute(statement.on_conflict_do_update(index_elements=["object_id"], set_=new), values)
        return len(latest)

    def get(self, object_id: str) -> Item:
        """The item of this id.

        Raises:
            NotFound: there is none.
        """
        with self._database.read() as connection:
            row = connection.execute(_select().where(items.c.object_id == object_id)).one_or_none()
        if row is None:
            raise _no_item(object_id)
        return Item(*row)

    def page(self, *, after: str | None, limit: int) -> tuple[list[Item], str | None]:
        """A page of items by their ids, and the cursor of the next page, if there is one.

        Raises:
            InvalidInput: `after` is no cursor of an earlier page.
        """
        query = _select().order_by(items.c.object_id).limit(limit + 1)
        if after is not None:
            query = query.where(items.c.object_id > _decode(after))
        with self._database.read() as connection:
            found = [Item(*row) for row in connection.execute(query)]
        page = found[:limit]
        return page, encode_cursor(page[-1].object_id) if len(found) > limit else None

    def delete(self, object_id: str) -> None:
        """Forget an item.

        Raises:
            NotFound: there is none.
        """
        with self._database.write() as connection:
            if connection.execute(sa.delete(items).where(items.c.object_id == object_id)).rowcount == 0:
                raise _no_item(object_id)

    def contents(self, object_ids: Collection[str], connection: sa.Connection | None = None) -> dict[str, str]:
        """The content of those of the items that exist, by id."""
        if connection is None:
            with self._database.read() as connection:
                return self.contents(object_ids, connection)
        ids = iter(object_ids)
        found: dict[str, str] = {}
        while chunk := list(islice(ids, 1000)):
            rows = connection.execute(_select().where(items.c.object_id.in_(chunk)))
            found |= {row.object_id: Item(*row).content for row in rows}
        return found

    def count(self) -> int:
        """How many items there are."""
        with self._database.read() as connection:
            return connection.scalar(sa.select(sa.func.count()).select_from(items)) or 0


def _select() -> sa.Select[Any]:
    return sa.select(items.c.object_id, items.c.text, items.c.fields)


def _decode(cursor: str) -> str:
    key = decode_cursor(cursor)
    try:
        return check_opaque_id(key)
    except ValueError:
        raise InvalidInput("`after` is not a cursor: pass the `next` of an earlier answer", field="after") from None


def _no_item(object_id: str) -> NotFound:
    return NotFound(f"there is no item {object_id!r}")


def _words(value: Any) -> Iterator[str]:
    """The text of every value in it, in order."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            yield from _words(part)
    elif value is not None and value != "":
        yield str(value)
