"""A running API for the client, and a network between them that fails on request."""

import socket
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from support.api import running, settings_for
from tuneloop import Client


@pytest.fixture(scope="session")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An API shared by tests, which take ids of their own."""
    with running(settings_for(tmp_path_factory.mktemp("client-api"))) as address:
        yield address


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    with Client(url) as made:
        yield made


@pytest.fixture
def own_client(tmp_path: Path) -> Iterator[Client]:
    """A client of an API that no other test uses: for what concerns all sessions or items."""
    with running(settings_for(tmp_path / "data")) as address, Client(address) as made:
        yield made


@pytest.fixture
def new_id() -> Callable[[], str]:
    return lambda: f"id-{uuid.uuid4().hex}"


@pytest.fixture
def a_session(new_id: Callable[[], str]) -> Callable[..., dict[str, Any]]:
    """Call it for a new session that shows `a` and `b`."""

    def make(**more: Any) -> dict[str, Any]:
        shown = [{"object_id": "a", "rank": 0.9}, {"object_id": "b"}]
        return {"session_id": new_id(), "search_query": "red dress", "search_results": shown, **more}

    return make


class BadNetwork:
    """Passes bytes on to a service; `lose(n)` loses the answers to the next n requests, after they were served."""

    def __init__(self, service: str) -> None:
        parts = urlsplit(service)
        self._service = (parts.hostname, parts.port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.lost = 0
        self._to_lose = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def lose(self, answers: int) -> None:
        self._to_lose = answers

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        with near, socket.create_connection(self._service) as far:
            back = threading.Thread(target=self._answer, args=(far, near), daemon=True)
            back.start()
            _pump(near, far)
            back.join()

    def _answer(self, far: socket.socket, near: socket.socket) -> None:
        while piece := _receive(far):
            if self._to_lose:
                self._to_lose -= 1
                self.lost += 1
                near.shutdown(socket.SHUT_RDWR)
                return
            near.sendall(piece)


def _pump(source: socket.socket, target: socket.socket) -> None:
    while piece := _receive(source):
        target.sendall(piece)
    target.close()


def _receive(source: socket.socket) -> bytes:
    try:
        return source.recv(65536)
    except OSError:
        return b""


@pytest.fixture
def bad_network(url: str) -> Iterator[BadNetwork]:
    network = BadNetwork(url)
    yield network
    network.close()
