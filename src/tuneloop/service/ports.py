"""Taking a port, and asking whether somebody answers there."""

import errno
import http.client
import json
import os
import socket
from typing import Any

from tuneloop.errors import InvalidInput


def reachable(host: str) -> str:
    """The address at which this machine itself reaches a server that listens on `host`."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)


def bind(host: str, port: int, variable: str) -> socket.socket:
    """A listening TCP socket.

    Raises:
        InvalidInput: the port is taken, or cannot be had; the message names `variable`, the setting to change.
    """
    if any(_accepts(address, port) for address in _same_to_a_client(host)):
        raise _taken(port, variable)
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host or "0.0.0.0", port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise InvalidInput(f"cannot listen on {host}: {error.strerror}; set TUNELOOP_HOST to another address") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise _taken(port, variable) from None
        if error.errno == errno.EADDRNOTAVAIL:
            raise InvalidInput(
                f"cannot listen on {host}: not an address of this machine; set TUNELOOP_HOST to another"
            ) from None
        reason = os.strerror(error.errno or 0).lower()
        raise InvalidInput(f"cannot listen on port {port}: {reason}; set {variable} to another port") from None
    return listener


def check(host: str, port: int, variable: str) -> None:
    """Make sure that the port is free.

    Raises:
        InvalidInput: it is not; see `bind`.
    """
    bind(host, port, variable).close()


def get(host: str, port: int, path: str, *, timeout: float = 1.0) -> tuple[int, Any] | None:
    """Status and JSON (or None) of `GET http://{host}:{port}{path}`; None when nobody answers within `timeout` s."""
    connection = http.client.HTTPConnection(reachable(host), port, timeout=timeout)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read(65536)
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
    try:
        return response.status, json.loads(body)
    except ValueError:
        return response.status, None


def _taken(port: int, variable: str) -> InvalidInput:
    return InvalidInput(f"port {port} is taken by another program: set {variable} to a free port, or stop that program")


def _same_to_a_client(host: str) -> tuple[str, ...]:
    # Some systems let two programs listen on one port, at different addresses of the same "localhost".
    local = host in ("localhost", "0.0.0.0", "::", "::1", "") or host.startswith("127.")
    return ("127.0.0.1", "::1") if local else (host,)


def _accepts(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=0.5):
            return True
    except OSError:
        return False
