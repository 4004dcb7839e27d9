"""How large a body may be, on the wire."""

import gzip
import json
import socket
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

Serve = Callable[..., httpx.Client]
SESSION = "/api/v1/clickstream/session"
IMPORT = "/api/v1/clickstream/sessions/import"
MIB = 2**20


def pieces(total: int, size: int = MIB) -> Iterator[bytes]:
    for _ in range(total // size):
        yield b" " * size


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("path", [SESSION, "/api/v1/items", "/v1/embeddings", "/api/v1/nothing"])
def test_a_body_of_50_mib_is_413(http: httpx.Client, path: str, chunked: bool) -> None:
    content = pieces(50 * MIB) if chunked else b" " * (50 * MIB)
    answer = http.post(path, content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == 413
    assert "10 MiB" in answer.text
    assert http.get("/api/v1/ping").status_code == 200  # over the same connection


def test_413_comes_after_the_whole_body_was_read(api_url: str) -> None:
    host, port = api_url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        head = f"POST {SESSION} HTTP/1.1\r\nHost: x\r\nContent-Length: {20 * MIB}\r\n\r\n"
        connection.sendall(head.encode() + b" " * (20 * MIB - 1))
        connection.settimeout(0.5)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        connection.settimeout(20)
        connection.sendall(b" ")
        assert connection.recv(100).startswith(b"HTTP/1.1 413 ")


def test_a_body_at_the_limit_is_read(serve: Serve, a_session: Callable[..., dict[str, Any]]) -> None:
    http = serve(max_body_mb=0.01)
    body = json.dumps(a_session()).encode()
    limit = int(0.01 * MIB)
    assert http.post(SESSION, content=body.ljust(limit)).status_code == 200
    assert http.post(SESSION, content=body.ljust(limit + 1)).status_code == 413


def lines(count: int, make: Callable[[], str], *, padding: int = 0) -> Iterator[bytes]:
    for _ in range(count):
        session = {"session_id": make(), "search_query": "q", "search_results": [{"object_id": "a"}]}
        yield json.dumps({**session, "search_meta": "x" * padding}).encode() + b"\n"


def test_imports_have_no_limit_and_do_not_grow_the_memory(http: httpx.Client, new_id: Callable[[], str]) -> None:
    tracemalloc.start()
    answer = http.post(IMPORT, content=lines(300, new_id, padding=100_000), timeout=120)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert answer.json() == {"accepted": 300, "duplicates": 0, "rejected": [], "rejected_total": 0}
    assert peak < 25 * MIB


def test_a_line_that_is_too_long_is_rejected_alone(http: httpx.Client, new_id: Callable[[], str]) -> None:
    content = iter([*lines(1, new_id), *lines(1, new_id, padding=11_000_000), *lines(1, new_id)])
    answer = http.post(IMPORT, content=content).json()
    assert (answer["accepted"], [line["line"] for line in answer["rejected"]]) == (2, [2])


def test_a_small_archive_with_a_huge_line_harms_nothing(http: httpx.Client, new_id: Callable[[], str]) -> None:
    bomb = gzip.compress(b"x" * (200 * MIB) + b"\n" + next(lines(1, new_id)))
    tracemalloc.start()
    answer = http.post(IMPORT, content=bomb, headers={"Content-Encoding": "gzip"}, timeout=120).json()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (answer["accepted"], answer["rejected_total"]) == (1, 1)
    assert peak < 60 * MIB
