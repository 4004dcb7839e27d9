"""Calls to an MLflow server that may be away for a while."""

import contextvars
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from functools import cached_property
from typing import Any, TypeVar

import structlog
import tenacity

from tuneloop.errors import Conflict, InvalidInput, NotFound, TuneloopError, Unavailable

log = structlog.get_logger(__name__)

T = TypeVar("T")

# Seconds without an answer after which a request is given up and, as long as there is time, tried again.
REQUEST_TIMEOUT = 60
# `check` is called at least this often, in seconds, while MLflow is asked or waited for.
CHECK_INTERVAL = 0.4
# A request under way when `check` gives up may still come to its end within this many seconds.
LAST_WORDS = 1.0


class Server:
    """An MLflow server at `uri`, with one way to call it.

    MLflow is imported by the first call, as that takes seconds. MLflow's own retries, which nobody can interrupt,
    are switched off for the process.

    Args:
        uri: the tracking URI.
        retry_seconds: how long a call is tried again while MLflow does not answer, or answers 5xx or 429.
        check: called at least every half second during a call; an error it raises ends the call.
    """

    def __init__(self, uri: str, *, retry_seconds: float, check: Callable[[], None] | None = None) -> None:
        self.uri = uri
        self.retry_seconds = retry_seconds
        self._check = check

    @cached_property
    def client(self) -> Any:
        """MLflow's own client. Use it inside `call` only."""
        configure_mlflow()
        from mlflow import MlflowClient

        return MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)

    def check(self) -> None:
        """Raises what the check given raises."""
        if self._check is not None:
            self._check()

    def call(self, work: Callable[[], T]) -> T:
        """The result of `work`, which calls MLflow and may be called more than once.

        Args:
            work: idempotent, or able to see that an earlier try did the work.

        Raises:
            NotFound, Conflict, InvalidInput: MLflow said so.
            Unavailable: MLflow did not answer for `retry_seconds`, or could not do it.
            Exception: what `check` raises.
        """
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(is_transient),
            wait=tenacity.wait_exponential(multiplier=0.1, max=3),
            stop=tenacity.stop_after_delay(self.retry_seconds),
            sleep=self._sleep,
            before_sleep=self._tell,
            reraise=True,
        )
        try:
            result: T = retrying(self._watched, work)
            return result
        except Exception as error:
            if is_transient(error):
                raise Unavailable(f"MLflow at {self.uri} does not answer: {error}") from error
            if (ours := translated(error)) is error:
                raise
            raise ours from error

    def _watched(self, work: Callable[[], T]) -> T:
        """Run `work` in a thread of its own, so that `check` is called while it waits for an answer."""
        self.check()
        outcome: Future[T] = Future()
        context = contextvars.copy_context()

        def run() -> None:
            try:
                outcome.set_result(context.run(work))
            except BaseException as error:
                outcome.set_exception(error)

        threading.Thread(target=run, name="mlflow-call", daemon=True).start()
        while not wait([outcome], CHECK_INTERVAL).done:
            try:
                self.check()
            except BaseException:
                wait([outcome], LAST_WORDS)
                raise
        return outcome.result()

    def _sleep(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            time.sleep(min(left, CHECK_INTERVAL))
            self.check()

    def _tell(self, state: tenacity.RetryCallState) -> None:
        if state.attempt_number in (1, 10) and state.outcome is not None:
            log.warning("MLflow does not answer, trying again", uri=self.uri, error=str(state.outcome.exception()))


def configure_mlflow() -> None:
    """Make MLflow's client of this process quiet, and quick to say that a server is away."""
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    for name, value in (
        ("MLFLOW_HTTP_REQUEST_TIMEOUT", str(REQUEST_TIMEOUT)),
        ("MLFLOW_DISABLE_TELEMETRY", "true"),
        ("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false"),
        ("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true"),
    ):
        os.environ.setdefault(name, value)


def is_transient(error: BaseException) -> bool:
    """Whether the same call may succeed later: no connection, no answer in time, or an answer of 5xx or 429."""
    import requests
    from mlflow.exceptions import InvalidUrlException, MlflowException, RestException

    if isinstance(error, requests.HTTPError) and error.response is not None:
        return _is_transient_status(error.response.status_code)
    if isinstance(error, requests.RequestException):
        return not isinstance(error, requests.exceptions.InvalidURL)
    if isinstance(error, RestException):
        return _is_transient_status(_status(error))
    # MLflow wraps whatever stopped a request, a refused connection too, in an error without a status.
    return (
        isinstance(error, MlflowException)
        and not isinstance(error, InvalidUrlException)
        and str(error.message).startswith("API request to ")
    )


def translated(error: Exception) -> Exception:
    """An error of MLflow as one of ours; every other error as it is."""
    import requests
    from mlflow.exceptions import MlflowException

    if isinstance(error, requests.HTTPError) and error.response is not None:
        status, text = error.response.status_code, str(error)
    elif isinstance(error, MlflowException):
        status, text = _status(error), str(error.message)
        if error.error_code in ("RESOURCE_ALREADY_EXISTS", "INVALID_STATE"):
            status = 409
    else:
        return error
    kinds: dict[int, type[TuneloopError]] = {400: InvalidInput, 404: NotFound, 409: Conflict}
    return kinds.get(status, Unavailable)(f"MLflow: {text}")


def _status(error: Any) -> int:
    return int(error.get_http_status_code())


def _is_transient_status(status: int) -> bool:
    return status >= 500 or status in (408, 429)
