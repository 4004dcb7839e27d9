"""What clients send about items, checked."""

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator
from pydantic.json_schema import SkipJsonSchema

from tuneloop.catalog.store import Item
from tuneloop.ids import ClientId, JsonValue, check_text

MAX_TEXT_LENGTH = 1_000_000

Text = Annotated[str, Field(max_length=MAX_TEXT_LENGTH), AfterValidator(check_text)]


class ItemIn(BaseModel):
    """A thing that search can return: its id, and the text or the fields that describe it."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    object_id: ClientId
    text: Text | None = Field(None, description="What a model reads; by default the values of `fields`, joined.")
    fields: dict[str, JsonValue] | None = None
    image_url: SkipJsonSchema[None] = Field(None, exclude=True)

    @field_validator("fields")
    @classmethod
    def _names_can_be_stored(cls, fields: dict[str, Any] | None) -> dict[str, Any] | None:
        for name in fields or ():
            check_text(name)
        return fields

    @field_validator("image_url", mode="before")
    @classmethod
    def _no_images_yet(cls, value: Any) -> None:
        raise ValueError("images are not supported yet: describe the item by text or fields")

    def to_item(self) -> Item:
        """The item for the store."""
        return Item(self.object_id, self.text, self.fields)
