"""The shapes of answers about items."""

from typing import Any

from pydantic import BaseModel


class Upserted(BaseModel):
    """How many items were written."""

    upserted: int


class ItemAnswer(BaseModel):
    """A thing that search can return."""

    object_id: str
    text: str | None = None
    fields: dict[str, Any] | None = None


class ItemPage(BaseModel):
    """Items, and the cursor of the next page."""

    items: list[ItemAnswer]
    next: str | None
