"""Embeddings of all items by the whole service: under kill -9, cancel and restart, and after a change."""

import io
import os
import signal
from collections import Counter
from pathlib import Path

import mlflow
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from support.service import PATIENCE, Service, wait_until
from tuneloop.database import Database
from tuneloop.models.store import StoredModels
from tuneloop.settings import Settings
from tuneloop.tasks.embed_items import PART_ITEMS
from tuneloop.tracking import Tracking

TASKS = "/api/v1/tasks"
COUNT = PART_ITEMS + 700  # the second part is not full

# Notes every text it is given; a file says how long it takes over a call with items from a number on.
CODE = """
import time
from pathlib import Path

import numpy as np
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

FOLDER = Path({folder!r})

class Noting(PythonModel):
    def predict(self, context, model_input: list[str], params=None):
        seconds, first = (FOLDER / "pace").read_text().split()
        if any(text.startswith("item ") and int(text[5:]) >= int(first) for text in model_input):
            time.sleep(float(seconds))
        with (FOLDER / "notes").open("a") as notes:
            notes.writelines(text + "\\n" for text in model_input)
        return np.array([[len(text), ord(text[-1]), {number}] for text in model_input], np.float32)

set_model(Noting())
"""


class Shop:
    """A running service with items, and a model that tells what it was asked to encode."""

    def __init__(self, service: Service, folder: Path) -> None:
        self.service = service
        self.http = service.http
        self.folder = folder
        self.versions = 0
        self.pace(0)

    def pace(self, seconds: float, first: int = 0) -> None:
        """From now on a call takes so long, if it has an item of the first number or a later one."""
        (self.folder / "pace").write_text(f"{seconds} {first}")

    def notes(self) -> Counter[str]:
        """How often each text was encoded since the last look."""
        path = self.folder / "notes"
        texts = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return Counter(texts)

    def new_version(self) -> str:
        self.versions += 1
        source, model = (self.folder / name for name in (f"noting{self.versions}.py", f"model{self.versions}"))
        source.write_text(CODE.format(folder=str(self.folder), number=self.versions))
        mlflow.pyfunc.save_model(str(model), python_model=str(source), pip_requirements=["mlflow", "numpy"])
        tracking = Tracking(self.service.mlflow_url)
        experiment = tracking.open_iteration("Embed Items", "b1")
        run_id = tracking.create_run(experiment, name="run", params={}, tags={})
        database = Database(Settings(_env_file=None, **self.service.settings).url)
        StoredModels(database).record(run_id, model)
        database.dispose()
        tracking.store_model(run_id, model)
        tracking.end_run(run_id, "FINISHED")
        made = self.http.post("/api/v1/models", json={"name": "shop", "run_id": run_id})
        return str(made.raise_for_status().json()["version"])

    def embed_items(self, version: str, **body: str) -> str:
        answer = self.http.post(f"/api/v1/models/shop/versions/{version}/embed-items", json=body)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["id"])

    def wait_items(self, task_id: str, more_than: int) -> None:
        def reached() -> bool:
            progress = self.http.get(f"{TASKS}/{task_id}").json().get("progress") or {}
            return bool(progress.get("items_done", 0) > more_than)

        wait_until(reached, what=f"more than {more_than} items to be done")

    def wait(self, task_id: str, *statuses: str, seconds: float = PATIENCE) -> dict:
        return self.service.wait_task(task_id, *statuses, seconds=seconds, where=TASKS)

    def output(self, task_id: str) -> pa.Table:
        answer = self.http.get(f"{TASKS}/{task_id}/output")
        assert answer.status_code == 200, answer.text
        return pq.read_table(io.BytesIO(answer.content))

    def files(self) -> list[str]:
        return sorted(path.name for path in (self.service.data_dir / "embeddings").iterdir())


def expected(text: str, number: int) -> np.ndarray:
    vector = np.array([len(text), ord(text[-1]), number], np.float32)
    return vector / np.linalg.norm(vector)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("embed-items")
    service = Service(folder / "service")
    try:
        shop = Shop(service.start(), folder)
        items = [{"object_id": f"o/{number:06}", "text": f"item {number}"} for number in range(COUNT)]
        for start in range(0, COUNT, 1000):
            service.http.post("/api/v1/items", json=items[start : start + 1000]).raise_for_status()
        shop.new_version()
        yield shop
    finally:
        service.close()


def test_a_killed_worker_goes_on_and_encodes_no_finished_part_twice(shop: Shop) -> None:
    shop.pace(1, first=PART_ITEMS)
    task_id = shop.embed_items("1")
    shop.wait_items(task_id, more_than=PART_ITEMS + 64)
    os.kill(shop.service.pids()["worker"], signal.SIGKILL)
    shop.pace(0)
    task = shop.wait(task_id)
    assert task["status"] == "done", task
    assert task["progress"]["items_done"] == task["progress"]["items_total"] == COUNT
    assert task["progress"]["items_encoded"] == COUNT - PART_ITEMS
    encoded = shop.notes()
    assert {encoded[f"item {number}"] for number in range(PART_ITEMS)} == {1}
    assert len(encoded) == COUNT and max(encoded.values()) == 2

    table = shop.output(task_id)
    assert table.column("object_id").to_pylist() == [f"o/{number:06}" for number in range(COUNT)]
    vectors = np.stack(table.column("embedding").to_numpy())
    np.testing.assert_allclose(vectors, [expected(f"item {number}", 1) for number in range(COUNT)], atol=1e-6)
    told = table.schema.metadata
    assert (told[b"tuneloop.model"], told[b"tuneloop.version"]) == (b"shop", b"1")
    assert table.schema.field("embedding").type == pa.list_(pa.float32(), 3)
    assert shop.files() == [f"{task_id}.parquet"]
    assert task["output"].endswith(f"/{task_id}.parquet")
    assert not [path for path in (shop.service.data_dir / "work").rglob("*") if path.is_file()]


def test_only_what_changed_is_encoded_again(shop: Shop) -> None:
    earlier = shop.embed_items("1")
    assert shop.wait(earlier)["status"] == "done"
    assert not shop.notes()
    shop.http.post("/api/v1/items", json=[
        {"object_id": "o/000003", "text": "changed"}, {"object_id": "a new one", "text": "new"},
        {"object_id": "o/000004", "text": "item 4", "fields": {"colour": "red"}},
    ])  # fmt: skip
    shop.http.delete("/api/v1/items/o/000000").raise_for_status()
    task_id = shop.embed_items("1")
    task = shop.wait(task_id)
    assert (task["status"], task["progress"]["items_encoded"]) == ("done", 2)
    assert shop.notes() == {"changed": 1, "new": 1}
    table = shop.output(task_id)
    rows = dict(zip(table.column("object_id").to_pylist(), table.column("embedding").to_pylist(), strict=True))
    assert len(rows) == COUNT and "o/000000" not in rows
    np.testing.assert_allclose(rows["o/000003"], expected("changed", 1), atol=1e-6)
    np.testing.assert_allclose(rows["a new one"], expected("new", 1), atol=1e-6)
    np.testing.assert_allclose(rows["o/000004"], expected("item 4", 1), atol=1e-6)
    assert shop.files() == [f"{task_id}.parquet"]
    assert "not there any more" in shop.http.get(f"{TASKS}/{earlier}/output").json()["detail"]


def test_cancel_comes_within_seconds_and_restart_keeps_finished_parts(shop: Shop) -> None:
    version = shop.new_version()
    shop.pace(1, first=PART_ITEMS)
    task_id = shop.embed_items("latest", output="shop.parquet")
    shop.wait_items(task_id, more_than=PART_ITEMS)
    assert shop.http.put(f"{TASKS}/{task_id}/cancel").status_code == 200
    canceled = shop.wait(task_id, "canceled", seconds=5)
    assert canceled["settings"] == {"model": "shop", "version": version, "output": "shop.parquet"}
    assert "no output" in shop.http.get(f"{TASKS}/{task_id}/output").json()["detail"]
    shop.pace(0)
    assert shop.http.put(f"{TASKS}/{task_id}/restart").json()["status"] == "pending"
    task = shop.wait(task_id)
    assert (task["status"], task["progress"]["items_encoded"]) == ("done", COUNT - PART_ITEMS)
    encoded = shop.notes()
    assert len(encoded) == COUNT and sum(encoded.values()) < COUNT + 700
    assert "shop.parquet" in shop.files() and not [name for name in shop.files() if name.endswith(".parts")]
    assert shop.output(task_id).schema.metadata[b"tuneloop.version"] == version.encode()
    kinds = shop.http.get(TASKS, params={"kind": "embed_items", "status": "done"}).json()
    assert kinds[0]["id"] == task_id and {task["kind"] for task in kinds} == {"embed_items"}


def test_a_version_that_is_gone_ends_the_task_with_a_reason(shop: Shop) -> None:
    version = shop.new_version()
    shop.pace(0.2)
    first = shop.embed_items(version)
    second = shop.embed_items(version)
    shop.wait_items(first, more_than=0)
    mlflow.MlflowClient(shop.service.mlflow_url).delete_model_version("shop", version)
    shop.http.put(f"{TASKS}/{first}/cancel")
    task = shop.wait(second)
    assert task["status"] == "error" and f"no version '{version}'" in task["detail"]
