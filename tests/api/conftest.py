"""APIs for the tests, and what they send to them."""

import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.api import running, settings_for


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def api_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An API without keys, on each database; shared by many tests, which take ids of their own."""
    more = {}
    if request.param == "postgresql":
        more["database_url"] = request.getfixturevalue("postgresql_url")()
    with running(settings_for(tmp_path_factory.mktemp("api"), **more)) as url:
        yield url


@pytest.fixture
def http(api_url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=api_url, timeout=60) as client:
        yield client


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., httpx.Client]]:
    """Call it with settings for a client of a fresh API with them, on SQLite."""
    with ExitStack() as stack:

        def start(**more: Any) -> httpx.Client:
            url = stack.enter_context(running(settings_for(tmp_path / "data", **more)))
            return stack.enter_context(httpx.Client(base_url=url, timeout=60))

        yield start


@pytest.fixture
def new_id() -> Callable[[], str]:
    """Call it for an id that no other test uses."""
    return lambda: f"id-{uuid.uuid4().hex}"


@pytest.fixture
def a_session(new_id: Callable[[], str]) -> Callable[..., dict[str, Any]]:
    """Call it for the body of a new session that shows `a`, `b` and `c`."""

    def make(**more: Any) -> dict[str, Any]:
        return {
            "session_id": new_id(),
            "search_query": "red dress",
            "search_results": [
                {"object_id": "a", "rank": 0.9},
                {"object_id": "b", "rank": 0.5, "meta": {"shelf": 3}},
                {"object_id": "c"},
            ],
            **more,
        }

    return make
