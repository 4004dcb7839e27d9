"""What the client raises: everything is a `TuneloopError`, so one `except` catches all of it."""

from typing import Any

from tuneloop.errors import TuneloopError


class ClientError(TuneloopError):
    """The client could not do what was asked; the message says what went wrong and what to do."""


class ConnectionFailedError(ClientError):
    """Nothing answers at the service's address, or the connection broke and stayed broken."""

    status = 503


class InvalidRequestError(ClientError):
    """A value that cannot be sent, such as NaN; found before anything was sent."""

    status = 422


class WaitTimeoutError(ClientError, TimeoutError):
    """The task did not end in the time given; it goes on."""

    status = 504


class JobFailedError(ClientError):
    """A task that was waited for failed, or was canceled."""


class ApiError(ClientError):
    """The service answered with an error.

    Attributes:
        status: the HTTP status.
        detail: one line that says what was wrong, and what to do.
        body: the answer's `detail` as it came, for a program to read (such as a list of problems).
        retry_after: the seconds that the service asks to wait before the next attempt.
    """

    def __init__(self, status: int, detail: str, body: Any = None) -> None:
        super().__init__(detail)
        self.status = status
        self.body = body
        self.retry_after: float | None = None


class InvalidInputError(ApiError):
    """400, 422: the service does not accept a value; `detail` names the field."""


class AuthenticationError(ApiError):
    """401: no API key, or one that the service does not know."""


class PermissionDeniedError(ApiError):
    """403: the key's role does not allow the call."""


class NotFoundError(ApiError):
    """404: what the call names does not exist."""


class ConflictError(ApiError):
    """409: the call contradicts what is stored."""


class TooLargeError(ApiError):
    """413: the body is larger than the service takes."""


class ServiceError(ApiError):
    """5xx, 429: the service could not answer now."""


_BY_STATUS: dict[int, type[ApiError]] = {
    400: InvalidInputError,
    401: AuthenticationError,
    403: PermissionDeniedError,
    404: NotFoundError,
    409: ConflictError,
    413: TooLargeError,
    422: InvalidInputError,
    429: ServiceError,
}


def api_error(status: int, body: Any) -> ApiError:
    """The error that stands for an answer with this status and this `detail`."""
    kind = _BY_STATUS.get(status, ServiceError if status >= 500 else ApiError)
    return kind(status, _one_line(body) or f"the service answered {status}", body)


def named_elements(error: ApiError, *, count: int) -> dict[int, str]:
    """The elements of a list that an error names, each with what is wrong with it; empty when it names none.

    Args:
        error: the service's answer to a request whose body is a list.
        count: the length of that list.
    """
    named: dict[int, str] = {}
    for problem in error.body if isinstance(error.body, list) else ():
        where = problem.get("loc") if isinstance(problem, dict) else None
        if isinstance(where, list) and where[:1] == ["body"] and len(where) > 1 and isinstance(where[1], int):
            reason = _one_line({**problem, "loc": where[2:]})
            named[where[1]] = f"{named[where[1]]}; {reason}" if where[1] in named else reason
    return named if all(0 <= index < count for index in named) else {}


def _one_line(body: Any) -> str:
    """A `detail` of any shape as text: a sentence, or pydantic's list of `{loc, msg}`, or a list of problems."""
    if isinstance(body, list):
        return "; ".join(filter(None, map(_one_line, body)))
    if isinstance(body, dict):
        if {"table", "problem", "fix"} <= body.keys():  # what is wrong with a dataset
            place = ".".join(str(body[name]) for name in ("table", "column") if body.get(name))
            return f"{place} {body['problem']} ({body['fix']})"
        message = body.get("msg") or body.get("message") or body.get("problem") or body.get("detail")
        where = ".".join(str(part) for part in body.get("loc") or () if part != "body")
        if isinstance(message, str):
            return f"{where}: {message}" if where else message
        return ", ".join(f"{key}: {_one_line(value)}" for key, value in body.items())
    return " ".join(str(body).split()) if body is not None else ""
