"""Learning from tables by the whole service: a fit, its model by name and in a plain MLflow client, kill, cancel."""

import os
import signal
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pyarrow.parquet as pq
import pytest

from support.service import PATIENCE, Service, wait_until
from support.tables import write_shop
from tuneloop.tracking import Tracking

TASKS = "/api/v1/tasks"


class Tables:
    """A running service that may read a shop's tables."""

    def __init__(self, service: Service, folder: Path) -> None:
        self.service = service
        self.http = service.http
        self.dataset = write_shop(folder, churn_train=_churned, churn_validation=_churned, churn_test=_churned)
        self.folder = folder

    def fit(self, dataset: dict[str, Any] | None = None, **settings: Any) -> str:
        body = {"dataset": dataset or self.dataset, "settings": {"learners": ["boosted"], "hops": 1, **settings}}
        answer = self.http.post("/api/v1/relational/task", json=body)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["id"])

    def task(self, task_id: str) -> dict[str, Any]:
        return dict(self.http.get(f"{TASKS}/{task_id}").json())

    def wait(self, task_id: str, *statuses: str, seconds: float = PATIENCE) -> dict[str, Any]:
        return self.service.wait_task(task_id, *statuses, seconds=seconds, where=TASKS)

    def wait_runs(self, task_id: str, count: int) -> None:
        def reached() -> bool:
            return bool((self.task(task_id).get("progress") or {}).get("runs_done", 0) >= count)

        wait_until(reached, what=f"{count} runs")

    def runs(self, task_id: str) -> list[Any]:
        tracking = Tracking(self.service.mlflow_url)
        return tracking.task_runs(tracking.open_experiment("shop/binary_classification/churn"), task_id)

    def test_entities(self) -> list[dict[str, Any]]:
        table = pq.read_table(self.folder / "churn_test.parquet").select(["customer_id", "timestamp"])
        rows = table.slice(0, 7).to_pylist()
        return [{"customer_id": row["customer_id"], "timestamp": row["timestamp"].isoformat()} for row in rows]


def _churned(columns: dict[str, Any]) -> dict[str, Any]:
    """Labels that the tables tell: customers from an even number on stay."""
    return {**columns, "churn": [int(name[1:]) % 2 for name in columns["customer_id"]]}


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("relational")
    (folder / "shop").mkdir()
    service = Service(folder / "service", table_roots=str(folder / "shop"))
    try:
        yield Tables(service.start(), folder / "shop")
    finally:
        service.close()


def test_a_fit_ends_in_a_model_that_anyone_calls(tables: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    task_id = tables.fit(max_runs=2)
    task = tables.wait(task_id)
    assert task["status"] == "done", task
    assert (task["kind"], task["progress"]["runs_done"]) == ("relational", 2)
    assert task["detail"].startswith("boosted: roc_auc ")

    runs = tables.runs(task_id)
    assert [run.status for run in runs] == ["FINISHED", "FINISHED"]
    best = next(run for run in runs if run.run_id == task["best_run_id"])
    assert [run.run_id for run in runs if run.says_stored] == [best.run_id]
    assert best.metrics["val_metric_roc_auc"] == max(run.metrics["val_metric_roc_auc"] for run in runs)
    assert "test_metric_roc_auc" in best.metrics and best.params["learner"] == "boosted"

    registered = tables.http.post("/api/v1/models", json={"name": "churn", "task_id": task_id}).json()
    entities = tables.test_entities()
    path = f"/api/v1/models/churn/versions/{registered['version']}/predict"
    answer = tables.http.post(path, json={"entities": entities})
    assert answer.status_code == 200, answer.text
    served = [each["prediction"] for each in answer.json()["predictions"]]
    assert len(served) == 7 and all(0 <= each <= 1 for each in served)

    monkeypatch.setenv("MLFLOW_TRACKING_URI", tables.service.mlflow_url)
    plain = mlflow.pyfunc.load_model(f"models:/churn/{registered['version']}")
    frame = pd.DataFrame(entities).assign(timestamp=lambda rows: pd.to_datetime(rows["timestamp"]))
    assert plain.predict(frame)["prediction"].tolist() == pytest.approx(served, abs=1e-9)

    refused = tables.http.post(f"/api/v1/models/churn/versions/{registered['version']}/embed", json={"inputs": ["a"]})
    assert refused.status_code == 409 and "learnt from tables" in refused.json()["detail"]


def test_a_killed_worker_is_replaced_and_repeats_no_finished_run(tables: Tables) -> None:
    task_id = tables.fit(max_runs=6)
    tables.wait_runs(task_id, 2)
    os.kill(tables.service.pids()["worker"], signal.SIGKILL)
    task = tables.wait(task_id)
    assert (task["status"], task["progress"]["runs_done"]) == ("done", 6)
    runs = tables.runs(task_id)
    finished = [run for run in runs if run.status == "FINISHED"]
    assert sorted(int(run.tags["tuneloop.run_index"]) for run in finished) == list(range(6))
    assert {run.status for run in runs} <= {"FINISHED", "KILLED"}
    assert [run.run_id for run in runs if run.says_stored] == [task["best_run_id"]]


def test_cancel_comes_within_seconds_and_restart_keeps_finished_runs(tables: Tables) -> None:
    task_id = tables.fit(max_runs=40)
    tables.wait_runs(task_id, 1)
    tables.http.put(f"{TASKS}/{task_id}/cancel").raise_for_status()
    tables.wait(task_id, "canceled", seconds=5)
    before = [run.run_id for run in tables.runs(task_id) if run.status == "FINISHED"]
    assert before and {run.status for run in tables.runs(task_id)} <= {"FINISHED", "KILLED"}
    tables.http.put(f"{TASKS}/{task_id}/restart").raise_for_status()
    tables.wait_runs(task_id, len(before) + 1)
    assert set(before) <= {run.run_id for run in tables.runs(task_id) if run.status == "FINISHED"}
    tables.http.put(f"{TASKS}/{task_id}/cancel")
    tables.wait(task_id, "canceled", "done", seconds=10)


def test_a_task_made_by_a_template_is_learnt(tables: Tables) -> None:
    template = (
        "SELECT t.timestamp, c.customer_id, NOT EXISTS (SELECT 1 FROM transactions x WHERE x.customer_id = "
        "c.customer_id AND x.t_dat > t.timestamp AND x.t_dat <= t.timestamp + {horizon}) AS churn "
        "FROM timestamps t, customers c"
    )
    task = {name: value for name, value in tables.dataset["task"].items() if name != "source"}
    dataset = {**tables.dataset, "task": {**task, "template": template, "horizon": "20 days"}}
    ended = tables.wait(tables.fit(dataset, max_runs=1))
    assert ended["status"] == "done", ended
    log = tables.http.get(f"{TASKS}/{ended['id']}/log").json()
    assert any("examples to learn from" in line for line in log["lines"])
