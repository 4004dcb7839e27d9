"""Tasks of any kind through the client, with no worker at hand: what a worker would note is noted here."""

from pathlib import Path

import pytest
import sqlalchemy as sa

from support.api import running, settings_for
from tuneloop import Client
from tuneloop.client import ClientError, ConflictError, NotFoundError
from tuneloop.database import Database
from tuneloop.feedback.store import FeedbackStore
from tuneloop.tasks.store import TaskStore
from tuneloop.tasks.tables import tasks


@pytest.fixture
def noted(tmp_path: Path):
    """A client, the id of an embedding task, and a function that changes the task's row."""
    settings = settings_for(tmp_path / "data")
    with running(settings) as url, Client(url) as client:
        database = Database(settings.url)
        wanted = {"model": "shop", "version": "3"}
        task_id = TaskStore(database, FeedbackStore(database)).create_embed_items(asked=wanted, settings=wanted).id

        def note(**values):
            with database.write() as connection:
                connection.execute(sa.update(tasks).values(values))

        yield client, task_id, note
        database.dispose()


def test_tasks_of_every_kind_are_listed_and_followed(noted):
    client, task_id, note = noted
    failed = client.create_task()
    assert [task.id for task in client.tasks()] == [failed.id, task_id]
    assert [task.id for task in client.tasks(kind="fine_tuning")] == [failed.id]
    [task] = client.tasks(kind="embed_items", status="pending")
    assert task == client.get_task(task_id)
    assert task.fine_tuning_method is None and task.settings == {"model": "shop", "version": "3"}
    note(status="processing", progress={"stage": "embedding", "items_done": 5, "items_total": 7, "items_encoded": 2})
    progress = client.get_task(task_id).progress
    assert (progress.stage, progress.items_done, progress.items_total, progress.items_encoded) == ("embedding", 5, 7, 2)
    note(status="pending")
    assert client.cancel_task(task_id).kind == "embed_items"
    assert client.restart_task(task_id).status == "pending"
    assert client.cancel_task(task_id).is_over


def test_an_output_is_downloaded_whole_or_not_at_all(noted, tmp_path: Path):
    client, task_id, note = noted
    target = tmp_path / "mine"
    target.mkdir()
    with pytest.raises(ConflictError, match="written nothing: it is pending"):
        client.download_output(task_id, target)
    source = tmp_path / "t.parquet"
    source.write_bytes(b"PAR1" * 300_000)
    note(status="done", output=str(source))
    assert client.get_task(task_id).output == str(source)
    assert client.download_output(task_id, target) == target / "t.parquet"
    assert client.download_output(task_id, target / "other").read_bytes() == source.read_bytes()
    source.unlink()
    with pytest.raises(NotFoundError, match="not there any more"):
        client.download_output(task_id, target / "late")
    assert sorted(path.name for path in target.iterdir()) == ["other", "t.parquet"]
    with pytest.raises(NotFoundError):
        client.download_output("0" * 24, target)


def test_embedding_all_items_needs_the_registry(noted):
    client, _, _ = noted
    with Client(client.url, retry_seconds=0) as impatient, pytest.raises(ClientError, match="MLflow"):
        impatient.embed_items("shop@champion", output="shop.parquet")
    assert len(client.tasks()) == 1
