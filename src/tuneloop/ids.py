"""Ids, times and page cursors, as the contract spells them."""

import base64
import binascii
import math
import secrets
import time
import unicodedata
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from tuneloop.errors import InvalidInput

MAX_ID_LENGTH = 512
MAX_JSON_DEPTH = 100


def new_id() -> str:
    """A new id of 24 lower-case hex digits: four bytes of time, then eight random ones."""
    return int(time.time()).to_bytes(4).hex() + secrets.token_hex(8)


def check_opaque_id(value: str) -> str:
    """The id that a client brought, unchanged, when it is 1 to 512 characters without control characters.

    Raises:
        ValueError: it is empty, too long, or holds a control character or a lone surrogate.
    """
    if not 1 <= len(value) <= MAX_ID_LENGTH:
        raise ValueError(f"an id has 1 to {MAX_ID_LENGTH} characters, this one has {len(value)}")
    # Printable text, nearly always the case, holds neither.
    if not value.isprintable() and any(unicodedata.category(char) in ("Cc", "Cs") for char in value):
        raise ValueError("an id holds no control characters and no lone surrogates")
    return value


def check_text(value: str) -> str:
    """The text unchanged, when every store can hold it.

    Raises:
        ValueError: it holds a NUL character or a lone surrogate.
    """
    if "\0" in value:
        raise ValueError("text must not hold NUL characters")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("text must not hold lone surrogates: send valid Unicode") from None
    return value


def check_json(value: Any, depth: int = 0) -> Any:
    """The JSON value unchanged, when every store can hold it.

    Raises:
        ValueError: a string in it holds a NUL or a lone surrogate, a number is NaN or infinite, or it is nested
            more than 100 deep.
    """
    if depth > MAX_JSON_DEPTH:
        raise ValueError(f"JSON must not be nested more than {MAX_JSON_DEPTH} deep")
    if isinstance(value, str):
        check_text(value)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError("JSON must not hold NaN or infinity")
    elif isinstance(value, list):
        for part in value:
            check_json(part, depth + 1)
    elif isinstance(value, dict):
        for key, part in value.items():
            check_text(key)
            check_json(part, depth + 1)
    return value


# For pydantic models: an id that a client brought, and a JSON value of any shape.
ClientId = Annotated[
    str,
    Field(min_length=1, max_length=MAX_ID_LENGTH, json_schema_extra={"pattern": r"^[^\x00-\x1f\x7f-\x9f]+$"}),
    AfterValidator(check_opaque_id),
]
JsonValue = Annotated[Any, AfterValidator(check_json)]


def now_micros() -> int:
    """This moment, in microseconds since 1970 (UTC). All stored times have this unit."""
    return time.time_ns() // 1000


def to_micros(seconds: float) -> int:
    """Unix seconds, as requests carry them, in microseconds."""
    return round(seconds * 1_000_000)


def iso(micros: int) -> str:
    """ISO 8601 in UTC with six fractional digits and no offset: `2023-12-21T14:30:25.823000`."""
    moment = datetime.fromtimestamp(micros // 1_000_000, UTC).replace(microsecond=micros % 1_000_000)
    return moment.replace(tzinfo=None).isoformat(timespec="microseconds")


def encode_cursor(key: str | int) -> str:
    """A URL-safe cursor that stands for the last key of a page."""
    return base64.urlsafe_b64encode(str(key).encode()).decode().rstrip("=")


def decode_cursor(cursor: str) -> str:
    """The key behind a cursor.

    Raises:
        InvalidInput: no cursor that this service gave.
    """
    try:
        return base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
    except (ValueError, binascii.Error):
        raise InvalidInput("`after` is not a cursor: pass the `next` of an earlier answer", field="after") from None
