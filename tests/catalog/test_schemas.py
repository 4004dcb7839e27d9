"""Items as clients send them: each fault is refused and named."""

import json
import re
from typing import Any

import pytest
from pydantic import ValidationError

from tuneloop.catalog.schemas import ItemIn
from tuneloop.catalog.store import Item


def test_an_item_is_taken_as_it_is() -> None:
    body = {"object_id": "a", "text": "red shoe", "fields": {"price": 9, "tags": ["x", None]}}
    assert ItemIn.model_validate(body).to_item() == Item("a", "red shoe", {"price": 9, "tags": ["x", None]})
    assert ItemIn.model_validate_json('{"object_id": "a"}').to_item() == Item("a")
    assert ItemIn.model_validate({"object_id": "a", "text": "x" * 1_000_000}).text is not None


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"object_id": ""}, "object_id"),
        ({"object_id": 1}, "object_id"),
        ({"object_id": "a\tb"}, "object_id .*control characters"),
        ({"text": 1}, "text"),
        ({"text": "a\0"}, "text .*NUL"),
        ({"text": "\ud800"}, "text"),
        ({"text": "x" * 1_000_001}, "text .*1000000"),
        ({"fields": []}, "fields"),
        ({"fields": {"a": {"b": "\0"}}}, "fields.a .*NUL"),
        ({"fields": {"a\0": 1}}, "fields .*NUL"),
        ({"fields": {"a": [float("nan")]}}, "fields.a .*NaN"),
        ({"image_url": "https://example.com/a.png"}, "image_url .*not supported yet"),
        ({"image_url": None}, "image_url .*not supported yet"),
        ({"title": "typo"}, "title"),
    ],
)
def test_a_fault_is_named(change: dict[str, Any], named: str) -> None:
    body = {"object_id": "a", "text": "t"} | change
    with pytest.raises(ValidationError) as caught:
        ItemIn.model_validate(body)
    [fault] = caught.value.errors()
    told = ".".join(map(str, fault["loc"])) + " " + fault["msg"]
    assert re.match(named, told), told
    with pytest.raises(ValidationError):
        ItemIn.model_validate_json(json.dumps(body))


def test_images_are_not_offered() -> None:
    assert "image_url" not in ItemIn.model_json_schema()["properties"]
