"""The whole service under kill -9, cancel and absence, on the embedded default and on servers of one's own."""

import os
import shutil
import signal
import threading
import time
from pathlib import Path

import httpx
import pytest

from support.mlflow import MlflowServer, lay_database
from support.service import Service, wait_until

TASKS = "/api/v1/fine-tuning/task"


class Running:
    """A running service with the probe method, and what tests do with it."""

    def __init__(self, service, folder):
        self.service = service
        self.http = service.http
        self.folder = folder
        self.count = 0

    def collect(self, sessions=30):
        self.count += 1
        lines = [
            f'{{"session_id": "{self.count}-{number}", "search_query": "q", "search_results": [{{"object_id": "a"}}]}}'
            for number in range(sessions)
        ]
        body = "\n".join(lines)
        answer = self.http.post("/api/v1/clickstream/sessions/import", content=body)
        assert answer.json()["accepted"] == sessions, answer.text

    def tune(self, **settings):
        self.collect()
        notes = self.folder / f"notes-{self.count}"
        body = {"fine_tuning_method": "Probe", "settings": {"note_file": str(notes), **settings}}
        answer = self.http.post(TASKS, json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()["id"], notes

    def task(self, task_id):
        return self.http.get(f"{TASKS}/{task_id}").json()

    def wait_training(self, task_id, epoch=2):
        def reached():
            return (self.task(task_id).get("progress") or {}).get("epoch", 0) >= epoch

        wait_until(reached, what="the first run to train")

    def wait_tried(self, notes, runs):
        """Until so many runs have begun to train; their progress may still tell of the one before."""
        wait_until(lambda: notes.exists() and len(notes.read_text().split()) >= runs, what=f"run {runs} to train")

    def runs(self, task_id):
        return [run["info"]["status"] for run in self.mlflow_runs(task_id)]

    def mlflow_runs(self, task_id):
        experiment = self.task(task_id)["experiment_url"].partition("/#/experiments/")[2].partition("/")[0]
        answer = httpx.post(
            f"{self.service.mlflow_url}/api/2.0/mlflow/runs/search",
            json={"experiment_ids": [experiment], "filter": f"tags.`tuneloop.task_id` = '{task_id}'"},
            timeout=120,
        )
        return list(reversed(answer.json()["runs"]))

    def local_copies(self):
        return [path for path in (self.service.data_dir / "work").rglob("*") if path.is_file()]


@pytest.fixture(scope="module", params=["embedded", "servers"])
def running(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(f"durability-{request.param}")
    (folder / "plugins").mkdir()
    shutil.copy(Path(__file__).parents[1] / "support" / "probe_method.py", folder / "plugins" / "probe.py")
    settings, mlflow = {"plugins": folder / "plugins"}, None
    if request.param == "servers":
        lay_database(folder / "own-mlflow")
        mlflow = MlflowServer(folder / "own-mlflow")
        mlflow.start()
        settings |= {
            "database_url": request.getfixturevalue("postgresql_url")(),
            "mlflow_tracking_uri": mlflow.url,
        }
    service = Service(folder / "service", **settings)
    try:
        result = Running(service.start(), folder)
        result.mlflow = mlflow
        yield result
    finally:
        service.close()
        if mlflow is not None:
            mlflow.stop()


def test_a_killed_worker_is_replaced_and_goes_on(running):
    task_id, notes = running.tune(seconds_per_step=1.0)
    running.wait_tried(notes, 2)
    os.kill(running.service.pids()["worker"], signal.SIGKILL)
    task = running.service.wait_task(task_id)
    assert task["status"] == "done", task
    tried = notes.read_text().split()
    assert len(tried) == 4  # three runs, the second of them twice
    assert tried[1] == tried[2]
    assert running.runs(task_id) == ["FINISHED", "KILLED", "FINISHED", "FINISHED"]
    assert running.local_copies() == []


def test_a_method_gets_as_many_earlier_sessions_as_it_asks_for(running):
    found = []
    for earlier in (0, 7):
        task_id, _ = running.tune(earlier=earlier, max_runs=1)
        assert running.service.wait_task(task_id)["status"] == "done"
        [run] = running.mlflow_runs(task_id)
        found += [tag["value"] for tag in run["data"]["tags"] if tag["key"] == "tuneloop.data.earlier"]
    assert found == ["0", "7"]


def test_cancel_reaches_a_training_within_seconds(running):
    task_id, _ = running.tune(seconds_per_step=5.0)
    running.wait_training(task_id, epoch=1)
    assert running.http.put(f"{TASKS}/{task_id}/cancel").status_code == 200
    running.service.wait_task(task_id, "canceled", seconds=5)
    assert running.runs(task_id) == ["KILLED"]
    assert running.local_copies() == []
    later, _ = running.tune()
    assert running.service.wait_task(later)["status"] == "done"
    assert running.http.put(f"{TASKS}/{later}/restart").status_code == 409
    assert running.http.put(f"{TASKS}/{later}/cancel").status_code == 409


def test_restart_goes_on_from_the_finished_runs(running):
    task_id, notes = running.tune(seconds_per_step=1.0)
    running.wait_tried(notes, 2)
    running.http.put(f"{TASKS}/{task_id}/cancel")
    running.service.wait_task(task_id, "canceled")
    assert running.http.put(f"{TASKS}/{task_id}/restart").json()["status"] == "pending"
    assert running.service.wait_task(task_id)["status"] == "done"
    tried = notes.read_text().split()
    assert (len(tried), tried[1]) == (4, tried[2])
    assert running.runs(task_id) == ["FINISHED", "KILLED", "FINISHED", "FINISHED"]


def test_mlflow_may_be_away_for_a_while(running):
    task_id, _ = running.tune(seconds_per_step=0.5)
    running.wait_training(task_id)
    if running.mlflow is None:
        for _ in range(2):  # the second time while it starts again
            running.service.kill_part("mlflow")
    else:
        running.mlflow.kill()
        time.sleep(10)
        running.mlflow.start()
    task = running.service.wait_task(task_id)
    assert task["status"] == "done", task
    assert running.runs(task_id) == ["FINISHED"] * 3


def test_tasks_of_one_method_run_one_at_a_time_in_order(running):
    first, _ = running.tune(seconds_per_step=0.2)
    second, _ = running.tune()
    seen = set()

    def both_done():
        later = running.task(second)["status"]  # asked first: the other one may end in between
        states = running.task(first)["status"], later
        seen.add(states)
        return states == ("done", "done")

    wait_until(both_done, what="both tasks")
    assert ("processing", "processing") not in seen
    assert all(states[1] == "pending" for states in seen if states[0] != "done"), seen


def test_a_killed_api_loses_nothing_it_acknowledged(running):
    stop, stored = threading.Event(), []

    def shop(name):
        number = 0
        while not stop.is_set():
            number += 1
            session_id = f"kill-{name}-{number}"
            body = {"session_id": session_id, "search_query": "q", "search_results": [{"object_id": "a"}]}
            events = {"session_id": session_id, "events": [{"event_id": "e", "object_id": "a"}]}
            try:
                if httpx.post(f"{running.service.url}/api/v1/clickstream/session", json=body).status_code == 200:
                    stored.append((session_id, 0))
                url = f"{running.service.url}/api/v1/clickstream/session/events"
                if httpx.post(url, json=events).status_code == 200:
                    stored.append((session_id, 1))
            except httpx.HTTPError:
                time.sleep(0.05)

    shoppers = [threading.Thread(target=shop, args=(name,)) for name in range(4)]
    for shopper in shoppers:
        shopper.start()
    for _ in range(2):
        time.sleep(1.5)
        os.kill(running.service.pids()["api"], signal.SIGKILL)
        wait_until(running.service.is_healthy, what="the API to be back")
    stop.set()
    for shopper in shoppers:
        shopper.join()
    assert len(stored) > 20
    for session_id, events in stored:
        session = running.http.get("/api/v1/clickstream/session", params={"session_id": session_id}).json()
        assert len(session["events"]) >= events
    running.http.post("/api/v1/clickstream/internal/batch/release", json={"release_id": "after the kill"})


def test_a_kill_of_everything_loses_no_task(running):
    task_id, notes = running.tune(seconds_per_step=1.0)
    running.wait_training(task_id)
    running.service.kill()
    running.service.start()
    task = running.service.wait_task(task_id)
    assert task["status"] == "done", task
    assert len(notes.read_text().split()) == 4
    assert running.runs(task_id) == ["KILLED", "FINISHED", "FINISHED", "FINISHED"]
    assert running.local_copies() == []
    left = [path for path in (running.service.data_dir / "snapshots").rglob("*") if path.is_file()]
    canceled = {task["id"] for task in running.http.get(TASKS, params={"status": "canceled"}).json()}
    assert {path.parent.name for path in left} <= canceled
