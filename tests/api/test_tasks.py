from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from support.api import running, settings_for
from tuneloop.database import Database
from tuneloop.tasks.tables import tasks

Make = Callable[..., dict[str, Any]]
TASKS = "/api/v1/fine-tuning/task"
METHOD = "Default Fine Tuning Method"
ALWAYS = {"id", "fine_tuning_method", "status", "created_at", "updated_at", "batch_id"}


def collect(http: httpx.Client, a_session: Make) -> str:
    """Store a session; the id of the batch it is collected in."""
    body = a_session()
    http.post("/api/v1/clickstream/session", json=body)
    return http.get("/api/v1/clickstream/session", params={"session_id": body["session_id"]}).json()["batch_id"]


def test_a_task_releases_the_collecting_batch(http: httpx.Client, a_session: Make) -> None:
    batch_id = collect(http, a_session)
    answer = http.post(TASKS, json={"fine_tuning_method": METHOD})
    assert answer.status_code == 200
    task = answer.json()
    assert (task["batch_id"], task["status"]) == (batch_id, "pending")
    assert set(task) == ALWAYS | {"settings"}
    assert len(task["id"]) == 24
    assert task["created_at"][10] == "T"
    assert len(task["created_at"]) == 26
    assert http.get(f"{TASKS}/{task['id']}").json() == task
    batches = http.get("/api/v1/clickstream/internal/batch").json()["batches"]
    assert [batch["status"] for batch in batches if batch["batch_id"] == batch_id] == ["released"]

    empty = http.post(TASKS, json={"fine_tuning_method": METHOD}).json()
    assert (empty["status"], empty["batch_id"]) == ("error", None)
    assert "nothing was collected" in empty["detail"]


def test_a_task_keeps_what_the_client_sent(http: httpx.Client, a_session: Make, new_id: Callable[[], str]) -> None:
    collect(http, a_session)
    sent = {
        "fine_tuning_method": METHOD,
        "metadata": {"why": "spring", "nested": {"none": None}},
        "settings": {"max_runs": 2, "max_minutes": None},
        "idempotency_key": new_id(),
    }
    task = http.post(TASKS, json=sent).json()
    assert {name: task[name] for name in sent} == sent
    assert http.post(TASKS, json=sent).json() == task
    for change in ({"settings": {"max_runs": 3}}, {"metadata": {}}, {"batch_id": task["batch_id"]}):
        assert http.post(TASKS, json={**sent, **change}).status_code == 409
    without_key = {name: value for name, value in sent.items() if name != "idempotency_key"}
    assert http.post(TASKS, json={**without_key, "batch_id": task["batch_id"]}).json()["id"] != task["id"]


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"max_runs": 0}, "max_runs"),
        ({"max_runs": "many"}, "max_runs"),
        ({"max_runs": "4"}, "max_runs"),
        ({"max_runs": True}, "max_runs"),
        ({"max_runs": 1.5}, "max_runs"),
        ({"max_minutes": -1}, "max_minutes"),
        ({"main_metric": "test_happiness"}, "main_metric"),
        ({"main_metric": 3}, "main_metric"),
        ({"no_such_setting": 1}, "no_such_setting"),
    ],
)
def test_wrong_settings_are_named_and_store_nothing(
    http: httpx.Client, a_session: Make, settings: dict[str, Any], field: str
) -> None:
    batch_id = collect(http, a_session)
    answer = http.post(TASKS, json={"fine_tuning_method": METHOD, "settings": settings})
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["body", "settings", field]
    batches = http.get("/api/v1/clickstream/internal/batch").json()["batches"]
    assert [batch["status"] for batch in batches if batch["batch_id"] == batch_id] == ["collecting"]


@pytest.mark.parametrize(
    ("change", "status", "hint"),
    [
        ({"fine_tuning_method": "No Such Method"}, 404, "No Such Method"),
        ({"fine_tuning_method": "a / b"}, 404, "a / b"),
        ({"fine_tuning_method": None}, 422, "fine_tuning_method"),
        ({"batch_id": "0" * 24}, 404, "batch"),
        ({"batch_id": "'; DROP TABLE tasks; --"}, 404, "batch"),
        ({"batch_id": 1}, 422, "batch_id"),
        ({"settings": []}, 422, "settings"),
        ({"metadata": "x"}, 422, "metadata"),
        ({"metadata": {"a": {"b": "\0"}}}, 422, "metadata"),
        ({"idempotency_key": ""}, 422, "idempotency_key"),
        ({"priority": 1}, 422, "priority"),
    ],
)
def test_wrong_requests(http: httpx.Client, change: dict[str, Any], status: int, hint: str) -> None:
    answer = http.post(TASKS, json={"fine_tuning_method": METHOD, **change})
    assert answer.status_code == status
    assert hint in answer.text


def test_the_collecting_batch_by_its_id_is_409(http: httpx.Client, a_session: Make) -> None:
    answer = http.post(TASKS, json={"fine_tuning_method": METHOD, "batch_id": collect(http, a_session)})
    assert answer.status_code == 409
    assert "collecting" in answer.json()["detail"]


def test_cancel_and_restart(http: httpx.Client, a_session: Make) -> None:
    collect(http, a_session)
    task = http.post(TASKS, json={"fine_tuning_method": METHOD}).json()
    path = f"{TASKS}/{task['id']}"
    assert http.put(f"{path}/restart").status_code == 409
    assert http.put(f"{path}/cancel").json()["status"] == "canceled"
    assert http.put(f"{path}/cancel").json()["status"] == "canceled"
    assert http.put(f"{path}/restart").json()["status"] == "pending"
    assert http.put(f"/api/v1/tasks/{task['id']}/cancel").json()["status"] == "canceled"
    assert http.put(f"/api/v1/tasks/{task['id']}/restart").json()["status"] == "pending"
    for action in ("cancel", "restart"):
        assert http.put(f"{TASKS}/{'0' * 24}/{action}").status_code == 404


def test_tasks_are_listed_newest_first(http: httpx.Client, a_session: Make) -> None:
    ids = []
    for _ in range(3):
        collect(http, a_session)
        ids.append(http.post(TASKS, json={"fine_tuning_method": METHOD}).json()["id"])
    http.put(f"{TASKS}/{ids[1]}/cancel")
    assert [task["id"] for task in http.get(TASKS).json()][:3] == ids[::-1]
    assert [task["id"] for task in http.get(TASKS, params={"skip": 1, "limit": 1}).json()] == [ids[1]]
    canceled = http.get(TASKS, params={"status": "canceled"}).json()
    assert canceled[0]["id"] == ids[1]
    assert {task["status"] for task in canceled} == {"canceled"}
    of_any_kind = http.get("/api/v1/tasks", params={"kind": "fine_tuning", "limit": 1}).json()
    assert [(task["id"], task["kind"]) for task in of_any_kind] == [(ids[2], "fine_tuning")]


def test_methods_are_described(http: httpx.Client) -> None:
    answer = http.get("/api/v1/fine-tuning/methods").json()
    assert answer["failed"] == []
    [method] = [method for method in answer["methods"] if method["name"] == METHOD]
    assert method["main_metric"] == "test_ndcg_at_10"
    assert method["version"]
    assert method["description"]
    schema = method["settings_schema"]
    assert {"max_runs", "max_minutes", "main_metric"} <= set(schema["properties"])
    assert schema["additionalProperties"] is False


def test_a_broken_plugin_is_named_and_the_others_work(serve: Callable[..., httpx.Client], tmp_path: Path) -> None:
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    (plugins / "broken.py").write_text("import no_such_package\n")
    answer = serve(plugins=plugins).get("/api/v1/fine-tuning/methods").json()
    assert [(plugin["source"], "no_such_package" in plugin["error"]) for plugin in answer["failed"]] == [
        ("broken.py", True)
    ]
    assert METHOD in [method["name"] for method in answer["methods"]]


@pytest.fixture
def with_database(tmp_path: Path) -> Iterator[tuple[httpx.Client, Database]]:
    settings = settings_for(tmp_path, mlflow_public_url="https://mlflow.example.org/")
    with running(settings) as url, httpx.Client(base_url=url) as http:
        database = Database(settings.url)
        yield http, database
        database.dispose()


def test_what_a_worker_notes_is_answered(
    with_database: tuple[httpx.Client, Database], a_session: Make, tmp_path: Path
) -> None:
    http, database = with_database
    collect(http, a_session)
    task_id = http.post(TASKS, json={"fine_tuning_method": METHOD}).json()["id"]
    output = tmp_path / "out.bin"
    output.write_bytes(b"\0\1" * 400_000)
    progress = {"stage": "training", "runs_done": 1, "runs_total": 8, "epoch": 2, "epochs": 5}
    noted = {
        "status": "processing",
        "progress": progress,
        "detail": "so far",
        "experiment_id": "7",
        "best_run_id": "r2",
        "start_run_id": "r1",
    }
    with database.write() as connection:
        connection.execute(sa.update(tasks).values(**noted, output=str(output)))
    task = http.get(f"{TASKS}/{task_id}").json()
    assert (task["status"], task["progress"], task["detail"]) == ("processing", progress, "so far")
    assert (task["best_run_id"], task["start_run_id"]) == ("r2", "r1")
    assert task["experiment_url"].startswith("https://mlflow.example.org/#/experiments/7/runs?")
    assert task["best_run_url"].startswith("https://mlflow.example.org/#/experiments/7/runs/r2?")
    assert task["best_model_url"] == f"{str(http.base_url).rstrip('/')}{TASKS}/{task_id}/model.safetensors"
    elsewhere = http.get(f"{TASKS}/{task_id}", headers={"Host": "tuneloop.example.org:8080"}).json()
    assert elsewhere["best_model_url"].startswith("http://tuneloop.example.org:8080/api/v1/")

    assert http.get(f"/api/v1/tasks/{task_id}").json()["output"] == str(output)
    assert http.get(f"/api/v1/tasks/{task_id}/output").content == output.read_bytes()
    output.unlink()
    assert http.get(f"/api/v1/tasks/{task_id}/output").status_code == 404


def test_a_task_without_output_has_none_to_stream(http: httpx.Client) -> None:
    task_id = http.post(TASKS, json={"fine_tuning_method": METHOD}).json()["id"]
    assert "no output" in http.get(f"/api/v1/tasks/{task_id}/output").json()["detail"]
    assert "no best model" in http.get(f"{TASKS}/{task_id}/model.safetensors").json()["detail"]
    assert http.get(f"{TASKS}/{'0' * 24}/model.safetensors").status_code == 404
