"""Datasets through the client: files are sent where the service cannot see them, and once."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tuneloop
from support.api import running, settings_for
from support.tables import write_shop
from tuneloop.client import ClientError
from tuneloop.relational import Dataset


@pytest.fixture
def connect(tmp_path: Path) -> Any:
    """Call it with settings for a client of a service with them."""
    from contextlib import ExitStack

    with ExitStack() as stack:

        def start(**more: Any) -> tuneloop.Client:
            url = stack.enter_context(running(settings_for(tmp_path / "data", **more)))
            return stack.enter_context(tuneloop.Client(url))

        yield start


def test_files_are_sent_and_not_again(connect: Callable[..., tuneloop.Client], tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    dataset = Dataset.parse(write_shop(tmp_path / "mine"))
    client = connect()
    sent: list[str] = []

    def note(name: str, done: int, size: int) -> None:
        if done == size:
            sent.append(name)

    assert client.validate(dataset, progress=note) == ()
    assert sorted(sent) == sorted(path.name for path in (tmp_path / "mine").iterdir())
    sent.clear()
    assert client.validate(dataset, progress=note) == ()
    assert sent == []
    table = tmp_path / "mine" / "customers.parquet"
    write_shop(tmp_path / "mine", customers=lambda c: c | {"age": [30] * len(c["age"])})
    assert client.validate(dataset, progress=note) == ()
    assert sent == [table.name]


def test_files_that_the_service_sees_are_not_sent(connect: Callable[..., tuneloop.Client], tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    dataset = Dataset.parse(write_shop(tmp_path / "mine"))
    client = connect(table_roots=str(tmp_path / "mine"))
    assert client.send_tables(dataset) == dataset
    assert not (tmp_path / "data" / "uploads").exists()


def test_problems_come_back(connect: Callable[..., tuneloop.Client], tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    document = write_shop(tmp_path / "mine", customers=lambda c: c | {"customer_id": ["c0"] * len(c["age"])})
    problems = connect().validate(Dataset.parse(document))
    assert ("customers", "customer_id") in {(each.table, each.column) for each in problems}


def test_a_file_that_cannot_be_sent_says_why(connect: Callable[..., tuneloop.Client], tmp_path: Path) -> None:
    client = connect()
    with pytest.raises(ClientError, match="no file"):
        client.validate(Dataset.parse({"name": "d", "tables": [{"name": "t", "source": f"{tmp_path}/none.csv"}]}))
    (tmp_path / "t.xlsx").write_bytes(b"x")
    with pytest.raises(ClientError, match=r"send \.parquet or \.csv"):
        client.validate(Dataset.parse({"name": "d", "tables": [{"name": "t", "source": f"{tmp_path}/t.xlsx"}]}))
