"""Predictions by the whole service: of a fitted model, into every kind of place, under kill -9 and cancel."""

import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from support.service import Service, wait_until
from support.tables import write_shop
from tuneloop import Client
from tuneloop.client import ClientError, InvalidInputError, JobFailedError, NotFoundError
from tuneloop.relational import Dataset

PREDICT = "/api/v1/models/churn/versions/latest/predict"
TASKS = "/api/v1/tasks"


class Shop:
    """A running service that may read and write a folder, and a model of churn learnt there."""

    def __init__(self, service: Service, folder: Path, database: str) -> None:
        self.service = service
        self.http = service.http
        self.folder = folder
        self.database = database
        self.client = Client(service.url)
        self.dataset = Dataset.parse(write_shop(folder, **dict.fromkeys(_SPLITS, _churned)))

    def ask(self, **body: Any) -> dict[str, Any]:
        answer = self.http.post(PREDICT, json={"source": f"{self.folder}/churn_test.parquet", **body})
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def wait(self, task: dict[str, Any], *statuses: str) -> dict[str, Any]:
        return self.service.wait_task(task["id"], *statuses, where=TASKS)

    def task_progress(self, task: dict[str, Any]) -> dict[str, Any]:
        return dict(self.http.get(f"{TASKS}/{task['id']}").json().get("progress") or {})

    def many(self, count: int) -> str:
        """A table of so many entities."""
        test = pq.read_table(self.folder / "churn_test.parquet").select(["customer_id", "timestamp"])
        pq.write_table(pa.concat_tables([test] * (count // len(test))), self.folder / "many.parquet")
        return f"{self.folder}/many.parquet"

    def files(self) -> set[str]:
        return {path.name for path in self.folder.iterdir()}


_SPLITS = ("churn_train", "churn_validation", "churn_test")


def _churned(columns: dict[str, Any]) -> dict[str, Any]:
    """Labels that can be learnt: every other customer leaves."""
    return {**columns, "churn": [int(name[1:]) % 2 for name in columns["customer_id"]]}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, postgresql_url: Callable[[], str]):
    folder = tmp_path_factory.mktemp("predict")
    (folder / "shop").mkdir()
    database = postgresql_url()
    service = Service(
        folder / "service",
        table_roots=str(folder / "shop"),
        table_connections=f"warehouse={database} archive={database}",
        table_writable="warehouse",
    )
    try:
        shop = Shop(service.start(), folder / "shop", database)
        job = shop.client.fit(shop.dataset, {"learners": ["boosted"], "hops": 1, "max_runs": 1})
        out = io.StringIO()
        job.stream_logs(out)
        assert job.status() == "done", out.getvalue()
        assert "examples to learn from" in out.getvalue() and out.getvalue().splitlines()[-1].startswith("done: ")
        assert job.register_model("churn").version == "1"
        yield shop
    finally:
        service.close()


def test_entities_are_answered(shop: Shop) -> None:
    rows = pq.read_table(shop.folder / "churn_test.parquet").slice(0, 5).to_pylist()
    entities = [{"customer_id": row["customer_id"], "timestamp": row["timestamp"]} for row in rows]
    found = shop.client.predict(entities=entities, model="churn")
    assert len(found) == 5 and all(0 <= each["prediction"] <= 1 for each in found)
    assert shop.client.predict(shop.dataset, entities=entities[::-1], model="churn", version=1) == found[::-1]
    run_id = shop.client.get_model("churn").versions[0].run_id
    assert shop.client.predict(entities=entities, run_id=run_id) == found
    with pytest.raises(NotFoundError):
        shop.client.predict(entities=entities, model="churn", alias="champion")
    shop.client.set_alias("churn", "champion", 1)
    assert shop.client.predict(entities=entities, model="churn", alias="champion") == found
    with pytest.raises(ClientError, match="not registered"):
        shop.client.predict(entities=entities, run_id="0" * 32)


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ({"entities": [{"customer_id": "c1"}]}, "'timestamp' is missing"),
        ({"entities": [{"customer": "c1", "timestamp": 0}]}, "'customer_id' is missing"),
        ({"entities": []}, "entities"),
        ({"entities": [{}] * 10_001}, "entities"),
        ({}, "either"),
        ({"entities": [{"customer_id": "c1", "timestamp": 0}], "source": "a.csv", "output": "b.csv"}, "either"),
        ({"source": "{folder}/churn_test.parquet"}, "belong together"),
        ({"source": "{folder}/churn_test.parquet", "output": "/etc/p.csv"}, "TUNELOOP_TABLE_ROOTS"),
        ({"source": "{folder}/churn_test.parquet", "output": "archive#p"}, "TUNELOOP_TABLE_WRITABLE=archive"),
        ({"source": "/etc/passwd", "output": "p.csv"}, "TUNELOOP_TABLE_ROOTS"),
        ({"entities": [{"customer_id": "c1", "timestamp": 0}], "embeddings": True}, "makes no embeddings"),
        ({"entities": [{"customer_id": "c1", "timestamp": 0}], "params": {"dataset": {"name": "x"}}}, "tables"),
    ],
)
def test_wrong_requests_are_named(shop: Shop, body: dict[str, Any], problem: str) -> None:
    body = json.loads(json.dumps(body).replace("{folder}", str(shop.folder)))
    answer = shop.http.post(PREDICT, json=body)
    assert answer.status_code == 422, answer.text
    assert problem in answer.text


def test_a_table_is_written_and_measured_and_never_overwritten_unasked(shop: Shop) -> None:
    output = shop.folder / "p.parquet"
    key = {"idempotency_key": "once"}
    task = shop.ask(output=str(output), **key)
    assert task["kind"] == "predict"
    done = shop.wait(task)
    assert (done["status"], done["output"]) == ("done", str(output)), done
    assert "roc_auc" in done["detail"] and "accuracy" in done["detail"]
    table = pq.read_table(output)
    test = pq.read_table(shop.folder / "churn_test.parquet")
    assert table.column_names == ["customer_id", "timestamp", "prediction"]
    assert table["customer_id"].to_pylist() == test["customer_id"].to_pylist()
    direct = shop.client.predict(entities=table.select([0, 1]).to_pylist(), model="churn")
    assert [each["prediction"] for each in direct] == pytest.approx(table["prediction"].to_pylist(), abs=1e-9)
    log = shop.http.get(f"{TASKS}/{task['id']}/log").json()["lines"]
    assert f"wrote {output}" in log and log[-1].startswith("done: measured")
    assert shop.http.get(f"{TASKS}/{task['id']}/output").content == output.read_bytes()

    again = {"source": f"{shop.folder}/churn_test.parquet", "output": str(output)}
    assert shop.http.post(PREDICT, json=again).status_code == 409
    assert shop.ask(output=str(output), **key)["id"] == task["id"]  # the same request is the same task
    before = output.stat().st_mtime_ns
    other = shop.wait(shop.ask(source=shop.many(100), output=str(output), overwrite=True))
    assert other["status"] == "done" and other.get("detail") is None
    assert output.stat().st_mtime_ns > before and pq.read_table(output).num_rows == 100
    assert not [name for name in shop.files() if name.endswith(".part")]


def test_an_output_that_comes_to_be_meanwhile_is_left_alone(shop: Shop) -> None:
    output = shop.folder / "raced.csv"
    os.kill(shop.service.pids()["worker"], signal.SIGSTOP)
    try:
        task = shop.ask(output=str(output))
        output.write_text("mine")
    finally:
        os.kill(shop.service.pids()["worker"], signal.SIGCONT)
    done = shop.wait(task)
    assert done["status"] == "error" and "exists already" in done["detail"] and "output" not in done
    assert output.read_text() == "mine"


def test_tables_of_databases_are_written(shop: Shop) -> None:
    for output in (f"{shop.folder}/p.duckdb#scores.churn", "warehouse#churn"):
        done = shop.wait(shop.ask(output=output))
        assert (done["status"], done["output"]) == ("done", output), done
        assert shop.http.post(PREDICT, json=shop_body(shop, output)).status_code == 409
        assert "table of a database" in shop.http.get(f"{TASKS}/{done['id']}/output").json()["detail"]
    query = "SELECT count(*), min(prediction) >= 0, max(prediction) <= 1 FROM "
    with duckdb.connect(str(shop.folder / "p.duckdb"), read_only=True) as connection:
        assert connection.execute(query + "scores.churn").fetchone() == (50, True, True)
    with psycopg.connect(shop.database) as connection:
        assert connection.execute((query + "churn").encode()).fetchone() == (50, True, True)


def shop_body(shop: Shop, output: str) -> dict[str, Any]:
    return {"source": f"{shop.folder}/churn_test.parquet", "output": output}


def test_a_killed_worker_leaves_nothing_half_and_another_ends_the_task(shop: Shop) -> None:
    output = shop.folder / "killed.parquet"
    task = shop.ask(source=shop.many(100_000), output=str(output))
    wait_until(lambda: "items_total" in (shop.task_progress(task)), what="the predictions to begin")
    os.kill(shop.service.pids()["worker"], signal.SIGKILL)
    assert not output.exists() or pq.read_table(output).num_rows == 100_000
    done = shop.wait(task)
    assert (done["status"], pq.read_table(output).num_rows) == ("done", 100_000)
    assert not [name for name in shop.files() if name.endswith(".part")]


def test_cancel_comes_within_seconds_and_leaves_nothing(shop: Shop) -> None:
    output = shop.folder / "canceled.parquet"
    task = shop.ask(source=shop.many(500_000), output=str(output))
    wait_until(lambda: "items_total" in (shop.task_progress(task)), what="the predictions to begin")
    shop.http.put(f"{TASKS}/{task['id']}/cancel").raise_for_status()
    canceled = shop.service.wait_task(task["id"], "canceled", seconds=10, where=TASKS)
    assert "output" not in canceled
    assert not [name for name in shop.files() if "canceled" in name]


def test_a_source_without_the_entity_ends_with_a_reason(shop: Shop) -> None:
    task = shop.wait(shop.ask(source=f"{shop.folder}/articles.parquet", output="a.csv"))
    assert task["status"] == "error" and "no column 'customer_id'" in task["detail"]


def test_the_client_downloads_what_it_asked_for(shop: Shop, tmp_path: Path) -> None:
    output = tmp_path / "churn.parquet"
    task = shop.client.predict(shop.dataset, model="churn", version=1, output=output)
    assert task.output == str(output) and "roc_auc" in (task.detail or "")
    assert pq.read_table(output).num_rows == 50
    with pytest.raises(ClientError, match="overwrite=True"):
        shop.client.predict(shop.dataset, model="churn", output=output)
    (tmp_path / "mine.csv").write_text("customer_id,timestamp\nc1,2024-10-01\n")
    shop.client.predict(source=tmp_path / "mine.csv", model="churn", output=output, overwrite=True)
    assert pq.read_table(output)["customer_id"].to_pylist() == ["c1"]
    shop.client.predict(source=tmp_path / "mine.csv", model="churn", output=tmp_path / "p.csv")
    assert (tmp_path / "p.csv").read_text().startswith('"customer_id","timestamp","prediction"\n"c1",')
    table = shop.client.predict(shop.dataset, model="churn", output=f"{shop.folder}/mine.duckdb#t")
    assert table.output == f"{shop.folder}/mine.duckdb#t"
    with pytest.raises(InvalidInputError, match="TUNELOOP_TABLE_ROOTS"):
        shop.client.predict(shop.dataset, model="churn", output=f"{tmp_path}/mine.duckdb#t")
    with pytest.raises(JobFailedError, match="no column"):
        shop.client.predict(source=shop.folder / "articles.parquet", model="churn", output=tmp_path / "no.csv")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["churn.parquet", "mine.csv", "p.csv"]


def test_the_command_line_learns_and_predicts(shop: Shop, tmp_path: Path) -> None:
    def command(*arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-m", "tuneloop.cli", "relational", *arguments, "--url", shop.service.url]
        done = subprocess.run(words, capture_output=True, text=True, timeout=240, cwd=tmp_path, check=False)
        assert done.returncode == status, (done.stdout, done.stderr)
        return done

    shop.dataset.save(tmp_path / "shop.yaml")
    chosen = ("--set", 'learners=["boosted"]', "--set", "hops=1", "--set", "max_runs=1", "--register", "cli")
    fitted = command("fit", "shop.yaml", *chosen)
    assert "examples to learn from" in fitted.stderr and fitted.stdout.splitlines()[-1] == "cli/1"
    assert re.search(r"^work +relational shop/churn$", fitted.stdout, re.MULTILINE)

    written = command("predict", "cli/1", "--dataset", "shop.yaml", "--output", "p.csv")
    assert re.search(r"^output +p.csv$", written.stdout, re.MULTILINE) and "roc_auc" in written.stdout
    assert (tmp_path / "p.csv").read_text().count("\n") == 51
    kept = command("predict", "cli", "--dataset", "shop.yaml", "--output", "p.csv", status=1)
    assert "p.csv exists already" in kept.stderr and kept.stdout == "" and len(kept.stderr.splitlines()) == 1
    source = str(shop.folder / "churn_test.parquet")
    again = command("predict", "cli", "--source", source, "--output", "p.csv", "--overwrite", "--json")
    assert json.loads(again.stdout)["status"] == "done"
    assert (
        "makes no embeddings"
        in command("predict", "cli", "--source", source, "--output", "e.csv", "--embeddings", status=1).stderr
    )
