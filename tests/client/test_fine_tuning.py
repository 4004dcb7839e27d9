"""Tasks and methods through the client, with no worker at hand: tasks wait."""

import pytest

from tuneloop.client import (
    DEFAULT_METHOD,
    ConflictError,
    InvalidInputError,
    InvalidRequestError,
    NotFoundError,
    WaitTimeoutError,
)


def test_with_nothing_collected_the_task_says_so(own_client):
    task = own_client.create_task()
    assert task.status == "error" and task.is_over and task.detail
    assert own_client.wait(task.id) == task


def test_a_task_from_its_making_to_its_restart(own_client, a_session):
    own_client.import_sessions([a_session()])
    task = own_client.create_task(settings={"max_runs": 2}, metadata={"why": "test"}, idempotency_key="mine")
    assert own_client.create_task(settings={"max_runs": 2}, metadata={"why": "test"}, idempotency_key="mine") == task
    assert task.status == "pending" and task.fine_tuning_method == DEFAULT_METHOD and task.batch_id
    assert task.settings["max_runs"] == 2 and task.metadata == {"why": "test"}
    assert task.created_at.utcoffset().total_seconds() == 0
    with pytest.raises(ConflictError):
        own_client.create_task(settings={"max_runs": 3}, idempotency_key="mine")

    seen = []
    with pytest.raises(WaitTimeoutError, match="pending"):
        own_client.wait(task.id, callback=seen.append, poll_seconds=0.01, timeout=0.05)
    assert seen and seen[0].id == task.id

    with pytest.raises(ConflictError):
        own_client.restart_task(task.id)
    assert own_client.cancel_task(task.id).status == "canceled"
    assert own_client.wait(task.id).status == "canceled"
    assert [each.id for each in own_client.tasks(status="canceled")] == [task.id]
    assert own_client.tasks(status="done") == []
    assert own_client.restart_task(task.id).status == "pending"
    assert own_client.tasks(skip=1) == []
    own_client.cancel_task(task.id)


def test_wrong_requests_are_explained(client):
    with pytest.raises(NotFoundError, match=DEFAULT_METHOD):
        client.create_task("No such method")
    with pytest.raises(InvalidInputError, match=r"settings\.max_runs"):
        client.create_task(settings={"max_runs": 0})
    with pytest.raises(InvalidInputError, match=r"settings\.colour"):
        client.create_task(settings={"colour": "red"})
    with pytest.raises(NotFoundError):
        client.create_task(batch_id="0" * 24)
    with pytest.raises(NotFoundError):
        client.get_task("../../../healthz")


def test_methods_come_with_their_settings(client):
    methods = {method.name: method for method in client.methods().methods}
    default = methods[DEFAULT_METHOD]
    assert default.main_metric == "test_ndcg_at_10" and default.version
    assert "max_runs" in default.settings_schema["properties"]
    assert client.methods().failed == ()


def test_no_best_model_no_download(client, tmp_path):
    with pytest.raises(NotFoundError):
        client.download_best_model("0" * 24, tmp_path)
    task = client.create_task()
    if not task.is_over:  # sessions of other tests were released
        task = client.cancel_task(task.id)
    with pytest.raises(ConflictError, match="no best model"):
        client.download_best_model(task.id, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_calls_that_make_no_sense_are_not_sent(client):
    with pytest.raises(InvalidRequestError, match="task_id or run_id"):
        client.register_model("shop")
    with pytest.raises(InvalidRequestError, match="object_ids or items"):
        client.rank("shop", "red")
    with pytest.raises(InvalidRequestError, match="list of texts"):
        client.embed("shop", "red")
    with pytest.raises(InvalidRequestError, match="no text"):
        client.embed("shop", [])
