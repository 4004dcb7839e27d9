"""Databases for tests: each of SQLite and PostgreSQL, always a fresh one."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from support.postgres import postgres_server
from tuneloop.database import Database


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[str]:
    """The URL of the maintenance database of a server that lives as long as the test session."""
    with postgres_server() as url:
        yield url


@pytest.fixture(scope="session")
def postgresql_url(postgresql_server: str) -> Callable[[], str]:
    """Call it for the URL of a fresh, empty PostgreSQL database."""
    names = (f"test_{number}" for number in itertools.count(1))

    def create() -> str:
        name = next(names)
        with psycopg.connect(postgresql_server, autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"')
        return f"{postgresql_server.rpartition('/')[0]}/{name}"

    return create


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a fresh, empty database: the test runs once on SQLite and once on PostgreSQL."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/tuneloop.sqlite"
        return
    url: str = request.getfixturevalue("postgresql_url")()
    yield url
    server, _, name = url.rpartition("/")
    with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
        connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A fresh database with all tables."""
    database = Database(database_url)
    database.migrate()
    yield database
    database.dispose()
