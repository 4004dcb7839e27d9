"""The errors that Tuneloop raises on purpose. `api/` turns them into HTTP in one place."""


class TuneloopError(Exception):
    """Something went wrong that a person can understand; the message says what and what to do.

    `status` is the HTTP status that the API answers with.
    """

    status = 500

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class InvalidInput(TuneloopError):
    """A value that cannot be accepted. `field` names it (`settings.max_runs`), when there is one."""

    status = 422

    def __init__(self, detail: str, *, field: str | None = None) -> None:
        super().__init__(detail)
        self.field = field


class NotFound(TuneloopError):
    """The thing asked for does not exist."""

    status = 404


class Conflict(TuneloopError):
    """The request contradicts what is stored."""

    status = 409


class Unavailable(TuneloopError):
    """A part that is needed does not answer right now."""

    status = 503
