"""HTTP under the client: one connection pool, retries, errors, and how Python values become JSON."""

import dataclasses
import ipaddress
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any
from urllib.parse import quote, urlsplit

import httpx
import tenacity

from tuneloop.client.errors import ApiError, ClientError, ConnectionFailedError, InvalidRequestError, api_error

Body = bytes | Callable[[], Iterable[bytes]]

JSON = "application/json"
NDJSON = "application/x-ndjson"
_PASSING = frozenset((429, 502, 503, 504))
_FIRST_WAIT, _LONGEST_WAIT = 0.1, 5.0  # seconds between attempts


class Transport:
    """Sends requests and tries again when the service is away for a moment.

    Args:
        url: the service's address, `http://` or `https://`.
        api_key: sent as `Authorization: Bearer …`, to this service only.
        timeout: seconds to wait for a connection, and for each part of an answer.
        retry_seconds: how long to try again on connection errors and 429, 502, 503, 504; 0 tries once.
    """

    def __init__(self, url: str, *, api_key: str | None, timeout: float, retry_seconds: float) -> None:
        self.url = url.rstrip("/")
        self.retry_seconds = retry_seconds
        try:
            address = httpx.URL(self.url)
        except httpx.InvalidURL:
            address = httpx.URL()
        if address.scheme not in ("http", "https") or not address.host:
            raise InvalidRequestError(f"{url!r} is no address of a service: it looks like http://localhost:5000")
        if api_key and not api_key.isprintable():
            raise InvalidRequestError("the API key holds characters that no header can carry")
        self._http = httpx.Client(
            base_url=address,
            headers={b"Authorization": f"Bearer {api_key}".encode()} if api_key else {},
            timeout=timeout,
            trust_env=not _is_loopback(address.host),  # a proxy of the environment reaches no service on this machine
        )

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def call(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        body: Any = None,
        content: Body | None = None,
        content_type: str = JSON,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        gone_is_done: int | None = None,
    ) -> Any:
        """The JSON answer of a call.

        Args:
            method: the HTTP verb.
            path: the path, ids in it encoded by `segment`.
            params: query parameters; those that are None are left out.
            body: sent as JSON.
            content: sent as it is; a function is called for each attempt and gives the parts of a streamed body.
            content_type: of `content`.
            headers: more headers.
            timeout: seconds, instead of the client's own.
            gone_is_done: a status which, on a second attempt, says that the first one did its work although its
                answer was lost; then None is answered.

        Raises:
            ApiError: the service answered with an error, and went on to.
            ConnectionFailedError: it did not answer.
            InvalidRequestError: `body` is no JSON.
        """
        if body is not None:
            content = dump(body)
        tried = 0

        def attempt() -> Any:
            nonlocal tried
            tried += 1
            response = self._http.request(
                method,
                path,
                params={name: value for name, value in (params or {}).items() if value is not None},
                content=content() if callable(content) else content,
                headers={**(headers or {}), **({"Content-Type": content_type} if content is not None else {})},
                timeout=timeout if timeout is not None else httpx.USE_CLIENT_DEFAULT,
            )
            if tried > 1 and response.status_code == gone_is_done:
                return None
            return _answer(response)

        return self._retry(attempt, self.url)

    def status(self, path: str) -> tuple[int, Any]:
        """Status and JSON of one GET, whatever the status is.

        Raises:
            ConnectionFailedError: nothing answers.
        """
        with _explained(self.url):
            response = self._http.get(path)
        return response.status_code, _json(response)

    def download(self, url: str, write: Callable[[Iterator[bytes]], None]) -> None:
        """Hand the bytes at an absolute address to `write`, from the beginning again when the connection breaks.

        Raises:
            ApiError: the answer was an error.
            ConnectionFailedError: nothing answers there, or not to the end.
        """

        def attempt() -> None:
            with self._client_for(url) as http, http.stream("GET", url, follow_redirects=True) as response:
                if not response.is_success:
                    response.read()
                    _answer(response)
                write(response.iter_bytes())

        self._retry(attempt, url)

    @contextmanager
    def _client_for(self, url: str) -> Iterator[httpx.Client]:
        """The connection pool for an address; one without our key when the address is somebody else's."""
        if _origin(url) == _origin(self.url):
            yield self._http
        else:
            with httpx.Client(timeout=self._http.timeout) as http:
                yield http

    def _retry(self, attempt: Callable[[], Any], url: str) -> Any:
        """What `attempt` returns, tried again while `url` is away."""
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(_passes),
            stop=tenacity.stop_before_delay(self.retry_seconds),
            wait=_wait,
            reraise=True,
        )
        with _explained(url):
            return retrying(attempt)


@contextmanager
def _explained(url: str) -> Iterator[None]:
    """httpx's errors as ours."""
    try:
        yield
    except httpx.TimeoutException as error:
        raise ConnectionFailedError(f"{url} did not answer in time ({type(error).__name__})") from error
    except httpx.ConnectError as error:
        raise ConnectionFailedError(f"nothing answers at {url}: is `tuneloop up` running? ({error})") from error
    except httpx.HTTPError as error:
        raise ConnectionFailedError(f"the connection to {url} broke: {error}") from error
    except httpx.InvalidURL as error:
        raise InvalidRequestError(f"{url!r} is no address of a service: {error}") from error
    except UnicodeEncodeError as error:
        raise InvalidRequestError(f"{error.object!r} is no valid Unicode: {error.reason}") from None


def segment(value: str) -> str:
    """An id as one segment of a path; dots too are encoded, for `..` would leave the path."""
    try:
        return quote(value, safe="").replace(".", "%2E")
    except UnicodeEncodeError as error:
        raise InvalidRequestError(f"{value!r} is no valid Unicode: {error.reason}") from None


def dump(value: Any) -> bytes:
    """A value as JSON: dataclasses without their empty fields, NumPy's numbers as numbers, times as Unix seconds.

    Raises:
        InvalidRequestError: it holds what JSON cannot say: NaN, infinity, lone surrogates, unknown types.
    """
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, default=_plain, separators=(",", ":")).encode()
    except (TypeError, ValueError) as error:  # UnicodeEncodeError is a ValueError
        raise InvalidRequestError(f"this cannot be sent as JSON: {error}") from None


def _plain(value: Any) -> Any:
    """What `json` does not know by itself."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {spec.name: getattr(value, spec.name) for spec in dataclasses.fields(value)}
        return {name: field for name, field in fields.items() if field is not None}
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise TypeError("a time without a time zone: give it one, such as datetime.now(UTC)")
        return value.timestamp()
    if hasattr(value, "tolist"):  # NumPy's arrays and numbers
        return value.tolist()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is no JSON type")


def _answer(response: httpx.Response) -> Any:
    """The JSON of a successful answer."""
    body = _json(response)
    if response.is_success:
        if body is None and response.content.strip() != b"null":
            raise ClientError(f"{response.url} answered something that is no JSON: is this a Tuneloop service?")
        return body
    detail = body.get("detail", body) if isinstance(body, dict) else body
    error = api_error(response.status_code, detail)
    error.retry_after = _seconds(response.headers.get("Retry-After"))
    raise error


def _json(response: httpx.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        return None


def _seconds(retry_after: str | None) -> float | None:
    try:
        return float(retry_after) if retry_after else None
    except ValueError:  # a date, which only proxies send
        return None


def _passes(error: BaseException) -> bool:
    """Whether the same call may succeed in a moment."""
    if isinstance(error, ApiError):
        return error.status in _PASSING
    return isinstance(error, httpx.TransportError) and not isinstance(
        error, httpx.UnsupportedProtocol | httpx.LocalProtocolError
    )


_backoff = tenacity.wait_exponential(multiplier=_FIRST_WAIT, max=_LONGEST_WAIT) + tenacity.wait_random(0, _FIRST_WAIT)


def _wait(state: tenacity.RetryCallState) -> float:
    """Seconds until the next attempt: what the service asked for, or ever longer."""
    error = state.outcome.exception() if state.outcome else None
    asked = error.retry_after if isinstance(error, ApiError) else None
    return asked if asked is not None else _backoff(state)


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
