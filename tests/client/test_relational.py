"""Datasets through the client: files are sent where the service cannot see them, and once."""

import io
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tuneloop
from support.api import running, settings_for
from support.service import wait_until
from support.tables import write_shop
from tuneloop.client import ClientError, InvalidInputError, JobFailedError
from tuneloop.database import Database
from tuneloop.feedback.store import FeedbackStore
from tuneloop.relational import Dataset
from tuneloop.tasks.store import TaskStore


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


# -- jobs


@pytest.fixture
def worked(tmp_path: Path) -> Any:
    """A client, a dataset, and the tasks' store, through which a test does what a worker would."""
    settings = settings_for(tmp_path / "data")
    (tmp_path / "mine").mkdir()
    dataset = Dataset.parse(write_shop(tmp_path / "mine"))
    with running(settings) as url, tuneloop.Client(url, retry_seconds=1) as client:
        database = Database(settings.url)
        yield client, dataset, TaskStore(database, FeedbackStore(database))
        database.dispose()


def test_a_job_is_asked_for_followed_and_canceled(worked: Any) -> None:
    client, dataset, _ = worked
    job = client.fit(dataset, {"max_runs": 2}, metadata={"why": "spring"})
    assert job.status() == "pending"
    assert (job.task.kind, job.task.settings, job.task.metadata) == ("relational", {"max_runs": 2}, {"why": "spring"})
    assert job.task.dataset["name"] == "shop"
    assert [task.id for task in client.tasks(kind="relational")] == [job.id]
    assert job.cancel().status == "canceled"
    with pytest.raises(JobFailedError, match="canceled"):
        job.register_model("churn")


def test_logs_are_streamed_to_the_end(worked: Any) -> None:
    client, dataset, store = worked
    job = client.fit(dataset)
    store.begin(job.id, 1)
    store.append_log(job.id, 1, [f"line {number}" for number in range(1500)])
    out = io.StringIO()
    following = threading.Thread(target=job.stream_logs, args=[out], kwargs={"poll_seconds": 0.05})
    following.start()
    wait_until(lambda: "line 1499\n" in out.getvalue(), what="the first lines")
    store.append_log(job.id, 1, ["the last one"])
    store.update(job.id, 1, status="error", detail="there was no test split")
    following.join(timeout=60)
    lines = out.getvalue().splitlines()
    assert lines == [*(f"line {number}" for number in range(1500)), "the last one", "error: there was no test split"]


def test_a_dataset_with_problems_is_no_job(worked: Any, tmp_path: Path) -> None:
    client, _, _ = worked
    document = write_shop(tmp_path / "mine", customers=lambda c: c | {"customer_id": ["c0"] * len(c["age"])})
    with pytest.raises(
        InvalidInputError, match=r"customers\.customer_id is a candidate key with 59 duplicates"
    ) as told:
        client.fit(Dataset.parse(document))
    assert {"table", "column", "problem", "fix"} == set(told.value.body[0])
    with pytest.raises(InvalidInputError, match=r"settings\.hops"):
        client.fit(Dataset.parse(document), {"hops": 9})
    assert client.tasks() == []


def test_the_address_of_mlflow_is_told_without_its_password(tmp_path: Path) -> None:
    settings = settings_for(tmp_path / "data", mlflow_tracking_uri="http://me:secret@mlflow.example.org:9")
    with running(settings) as url, tuneloop.Client(url) as client:
        assert client.mlflow_session_url == "http://mlflow.example.org:9"
