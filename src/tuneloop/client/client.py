"""`Client`: a method for each call of the service."""

import os
from types import TracebackType
from typing import Self

from tuneloop.client.clickstream import ClickstreamCalls
from tuneloop.client.fine_tuning import FineTuningCalls
from tuneloop.client.items import ItemCalls
from tuneloop.client.predictions import PredictionCalls
from tuneloop.client.transport import Transport
from tuneloop.client.types import Health, PartHealth

DEFAULT_URL = "http://localhost:5000"


class Client(ClickstreamCalls, ItemCalls, FineTuningCalls, PredictionCalls):
    """A Tuneloop service, as Python calls. Threads may share one client.

    Every call is tried again when the connection breaks or the service is away for a moment (429, 502, 503, 504).
    That is safe: the calls are idempotent, and keys that make them so are made once for a call, not for an attempt.

    Args:
        url: the service's address; the default is `TUNELOOP_URL`, or http://localhost:5000.
        api_key: the secret of an API key; the default is `TUNELOOP_API_KEY`, or none.
        timeout: seconds to wait for a connection, and for each part of an answer.
        retry_seconds: how long a call is tried again; 0 tries once.

    Raises:
        InvalidRequestError: `url` is no http or https address.

    Example:
        >>> with tuneloop.Client() as client:
        ...     client.upsert_items([{"object_id": "a1", "text": "red canvas shoes"}])
        ...     client.add_session("s1", "red shoes", [{"object_id": "a1", "rank": 0.93}])
        ...     client.add_events("s1", [{"event_id": "e1", "object_id": "a1"}])
    """

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        timeout: float = 60.0,
        retry_seconds: float = 30.0,
    ) -> None:
        self.url = url or os.environ.get("TUNELOOP_URL") or DEFAULT_URL
        key = api_key if api_key is not None else os.environ.get("TUNELOOP_API_KEY")
        self._transport = Transport(self.url, api_key=key or None, timeout=timeout, retry_seconds=retry_seconds)

    def ping(self) -> None:
        """Ask the service for a sign of life.

        Raises:
            ConnectionFailedError: it does not answer.
        """
        self._transport.call("GET", "/api/v1/ping")

    def health(self) -> Health:
        """What each part of the service says of itself: database, queue, MLflow.

        Raises:
            ConnectionFailedError: the service does not answer.
        """
        status, body = self._transport.status("/healthz")
        parts = body.get("parts") if isinstance(body, dict) else None
        return Health(status == 200, {name: PartHealth.parse(part) for name, part in (parts or {}).items()})

    @property
    def mlflow_session_url(self) -> str:
        """The address of MLflow, for a browser: experiments, runs and their metrics while they come."""
        return str(self._transport.call("GET", "/api/v1/mlflow")["url"])

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
