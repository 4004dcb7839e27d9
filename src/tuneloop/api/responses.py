"""The error answers that routes document."""

from typing import Any

from tuneloop.api.schemas.errors import Failure, Invalid, OpenAIFailure

_REASONS = {
    401: "No key, or a wrong one",
    403: "The key's role may not do this",
    404: "There is no such thing",
    409: "It contradicts what is stored",
    413: "The body is too large",
    422: "Something in the request is invalid",
    503: "A part that is needed does not answer right now",
}


def failures(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The answers to requests that fail, for the OpenAPI document; those of every route are among them."""
    return {
        status: {"model": Invalid if status == 422 else Failure, "description": _REASONS[status]}
        for status in sorted({401, 403, 422, 503, *statuses})
    }


def openai_failures(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The same below `/v1`."""
    return {status: {**value, "model": OpenAIFailure} for status, value in failures(*statuses).items()}
