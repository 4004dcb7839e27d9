"""Which iteration is a method's most recent, and what is removed when."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mlflow
import pytest

from support.mlflow import MlflowServer
from tuneloop.tracking import Tracking

Iterate = Callable[..., tuple[str, str]]


@pytest.fixture
def client(mlflow_uri: str) -> mlflow.MlflowClient:
    return mlflow.MlflowClient(mlflow_uri)


@pytest.fixture(scope="module")
def mlflow_model(mlflow_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of few files, quickly stored."""
    folder = tmp_path_factory.mktemp("small") / "model"
    folder.mkdir()
    shutil.copy(mlflow_model / "MLmodel", folder)
    (folder / "weights").write_bytes(os.urandom(1000))
    return folder


@pytest.fixture
def iterate(tracking: Tracking, method: str, mlflow_model: Path) -> Iterate:
    """Do what a task does: a run, its model, completion, removal; the ids of the experiment and the run."""

    def do(batch_id: str, task_id: str, *, complete: bool = True, remove: bool = True) -> tuple[str, str]:
        experiment = tracking.open_iteration(method, batch_id)
        run_id = tracking.create_run(experiment, name="run 1", params={}, tags={"tuneloop.task_id": task_id})
        tracking.store_model(run_id, mlflow_model)
        tracking.end_run(run_id, "FINISHED")
        if complete:
            tracking.complete_iteration(experiment, task_id)
        if complete and remove:
            tracking.remove_earlier_iterations(method, keep_experiment_id=experiment, task_id=task_id)
        return experiment, run_id

    return do


def register(client: mlflow.MlflowClient, run_id: str) -> str:
    name = f"shop-{run_id}"
    client.create_registered_model(name)
    client.create_model_version(name, f"runs:/{run_id}/model", run_id)
    return name


def test_an_iteration_is_opened_once(tracking: Tracking, method: str, batch: Callable[[], str]) -> None:
    batch_id = batch()
    with ThreadPoolExecutor(8) as pool:
        ids = set(pool.map(lambda _: tracking.open_iteration(method, batch_id), range(16)))
    assert len(ids) == 1
    assert tracking.open_iteration(method, batch()) not in ids


def test_a_deleted_iteration_is_restored_and_a_purged_one_created_anew(
    tracking: Tracking, mlflow_server: MlflowServer, client: mlflow.MlflowClient, method: str
) -> None:
    first = tracking.open_iteration(method, "b1")
    client.delete_experiment(first)
    assert tracking.open_iteration(method, "b1") == first
    assert client.get_experiment(first).lifecycle_stage == "active"
    run_id = tracking.create_run(first, name="run 1", params={}, tags={"tuneloop.task_id": "t1"})
    client.delete_experiment(first)
    collect_garbage(mlflow_server)
    second = tracking.open_iteration(method, "b1")
    assert tracking.task_runs(second, "t1") == []
    assert not tracking.has_model(run_id)
    tracking.end_run(run_id, "KILLED")


def collect_garbage(server: MlflowServer) -> None:
    store = f"sqlite:///{server.data_dir}/mlflow/mlflow.sqlite"
    subprocess.run(
        [sys.executable, "-m", "mlflow", "gc", "--backend-store-uri", store, "--tracking-uri", server.url],
        check=True,
        timeout=120,
        capture_output=True,
        env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"},
    )


def test_only_a_completed_iteration_is_the_most_recent(tracking: Tracking, method: str, iterate: Iterate) -> None:
    assert tracking.latest_iteration(method) is None
    iterate("b1", "t1", complete=False)
    assert tracking.latest_iteration(method) is None
    experiment, run_id = iterate("b2", "t2", remove=False)
    iterate("b3", "t3", complete=False)
    latest = tracking.latest_iteration(method)
    assert latest is not None
    assert (latest.experiment_id, latest.task_id, latest.best.run_id) == (experiment, "t2", run_id)
    experiment, run_id = iterate("b4", "t4", remove=False)
    latest = tracking.latest_iteration(method)
    assert latest is not None and latest.best.run_id == run_id
    # completed again, later
    experiment, run_id = iterate("b2", "t5", remove=False)
    latest = tracking.latest_iteration(method)
    assert latest is not None and (latest.task_id, latest.best.run_id) == ("t5", run_id)


def test_experiments_of_other_names_are_ignored(
    tracking: Tracking, method: str, iterate: Iterate, client: mlflow.MlflowClient
) -> None:
    experiment, _ = iterate("b1", "t1")
    client.rename_experiment(experiment, f"my notes / {method} / b1 / {experiment}")
    assert tracking.latest_iteration(method) is None


def test_an_iteration_without_its_best_model_is_not_the_most_recent(
    tracking: Tracking, method: str, iterate: Iterate, client: mlflow.MlflowClient
) -> None:
    _, first = iterate("b1", "t1", remove=False)
    experiment, second = iterate("b2", "t2", remove=False)
    client.delete_run(second)
    latest = tracking.latest_iteration(method)
    assert latest is not None and latest.best.run_id == first
    # the model of another task's run in that experiment is not the iteration's
    iterate("b2", "t3", complete=False)
    latest = tracking.latest_iteration(method)
    assert latest is not None and latest.best.run_id == first
    client.delete_experiment(experiment)
    tracking.delete_model(first)
    assert tracking.latest_iteration(method) is None


def test_the_run_named_best_is_the_best(tracking: Tracking, method: str, mlflow_model: Path) -> None:
    experiment = tracking.open_iteration(method, "b1")
    runs = []
    for number in range(3):
        runs.append(tracking.create_run(experiment, name=str(number), params={}, tags={"tuneloop.task_id": "t1"}))
        tracking.store_model(runs[-1], mlflow_model)
    tracking.complete_iteration(experiment, "t1")
    latest = tracking.latest_iteration(method)
    assert latest is not None and latest.best.run_id == runs[2]
    tracking.complete_iteration(experiment, "t1", best_run_id=runs[1])
    latest = tracking.latest_iteration(method)
    assert latest is not None and latest.best.run_id == runs[1]


def test_the_earlier_iteration_is_removed_with_its_bytes(
    tracking: Tracking, method: str, iterate: Iterate, client: mlflow.MlflowClient, mlflow_server: MlflowServer
) -> None:
    first, first_run = iterate("b1", "t1")
    unfinished, unfinished_run = iterate("b0", "t0", complete=False)
    second, second_run = iterate("b2", "t2")
    assert client.get_experiment(first).lifecycle_stage == "deleted"
    assert not list(mlflow_server.artifacts.rglob(f"{first_run}/artifacts/model"))
    assert client.get_experiment(unfinished).lifecycle_stage == "active" and tracking.has_model(unfinished_run)
    assert client.get_experiment(second).lifecycle_stage == "active" and tracking.has_model(second_run)
    tracking.remove_earlier_iterations(method, keep_experiment_id=second, task_id="t2")
    assert tracking.has_model(second_run)


def test_an_iteration_with_a_registered_version_is_kept_and_loads_after_gc(
    tracking: Tracking,
    mlflow_server: MlflowServer,
    client: mlflow.MlflowClient,
    method: str,
    mlflow_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    experiments, runs = [], []
    for number in range(3):
        experiments.append(tracking.open_iteration(method, f"b{number}"))
        for part in range(2):
            tags = {"tuneloop.task_id": f"t{number}"}
            runs.append(tracking.create_run(experiments[-1], name=str(part), params={}, tags=tags))
            tracking.store_model(runs[-1], mlflow_model)
        tracking.complete_iteration(experiments[-1], f"t{number}")
    name = register(client, runs[0])
    for _ in range(2):  # done again, it changes nothing
        tracking.remove_earlier_iterations(method, keep_experiment_id=experiments[2], task_id="t2")
    assert client.get_experiment(experiments[0]).name == f"kept / {method} / b0 / {experiments[0]}"
    assert client.get_experiment(experiments[1]).lifecycle_stage == "deleted"
    assert [tracking.has_model(run_id) for run_id in runs] == [True, False, False, False, True, True]
    latest = tracking.latest_iteration(method)
    assert latest is not None and latest.experiment_id == experiments[2]
    collect_garbage(mlflow_server)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server.url)
    loaded = mlflow.artifacts.download_artifacts(f"models:/{name}/1", dst_path=str(tmp_path))
    assert Path(loaded, "weights").read_bytes() == (mlflow_model / "weights").read_bytes()
    assert tracking.open_iteration(method, "b0") not in experiments


def test_the_same_batch_again_replaces_the_earlier_tasks_model(
    tracking: Tracking, method: str, iterate: Iterate, client: mlflow.MlflowClient
) -> None:
    first, run_1 = iterate("b1", "t1")
    second, run_2 = iterate("b1", "t2")
    assert first == second
    assert not tracking.has_model(run_1) and tracking.has_model(run_2)
    latest = tracking.latest_iteration(method)
    assert latest is not None and (latest.task_id, latest.best.run_id) == ("t2", run_2)
    register(client, run_2)
    _, run_3 = iterate("b1", "t3")
    assert tracking.has_model(run_2) and tracking.has_model(run_3)


def test_a_removed_iterations_batch_can_be_tuned_again(tracking: Tracking, method: str, iterate: Iterate) -> None:
    first, run_1 = iterate("b1", "t1")
    _, run_2 = iterate("b2", "t2")
    again = tracking.open_iteration(method, "b1")
    assert again == first
    latest = tracking.latest_iteration(method)  # its old completion says nothing any more
    assert latest is not None and latest.best.run_id == run_2
    assert [run.run_id for run in tracking.task_runs(first, "t1")] == [run_1]
    third, run_3 = iterate("b1", "t3")
    assert third == first and tracking.has_model(run_3) and not tracking.has_model(run_2)


def test_removal_is_finished_after_a_kill_at_any_call(
    tracking: Tracking, method: str, iterate: Iterate, client: mlflow.MlflowClient, mlflow_uri: str
) -> None:
    """The process "dies" before its n-th call to MLflow, for every n; the next one finishes."""

    class Killed(Exception):
        pass

    for allowed in range(1, 300, 7):
        first, run_1 = iterate(f"b1{allowed}", "t1", remove=False)
        kept, run_2 = iterate(f"b2{allowed}", "t2", remove=False)
        name = register(client, run_2)
        last, run_3 = iterate(f"b3{allowed}", "t3", remove=False)
        calls = 0

        def die(allowed: int = allowed) -> None:
            nonlocal calls
            calls += 1
            if calls > allowed:
                raise Killed

        def remove(tracking: Tracking, last: str = last) -> None:
            tracking.remove_earlier_iterations(method, keep_experiment_id=last, task_id="t3")

        try:
            remove(Tracking(mlflow_uri, check=die))
            survived = True
        except Killed:
            survived = False
            remove(tracking)
        assert client.get_experiment(first).lifecycle_stage == "deleted" and not tracking.has_model(run_1)
        assert client.get_experiment(kept).name.startswith("kept / ") and tracking.has_model(run_2)
        assert tracking.has_model(run_3)
        client.delete_registered_model(name)
        if survived:
            return
    raise AssertionError("never got through")
