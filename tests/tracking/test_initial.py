"""Initial models: one run for each source."""

import secrets
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mlflow
import pytest

from tuneloop.tracking import Tracking, names, search


@pytest.fixture
def source_hash() -> str:
    return f"{secrets.token_hex(16)}' \""


def initial_runs(tracking: Tracking, source_hash: str) -> list[str]:
    experiment = tracking.find_experiment(names.INITIAL_EXPERIMENT)
    assert experiment is not None
    tag = (names.MODEL_HASH_TAG, source_hash)
    return [run.run_id for run in search.runs(tracking.server, experiment.experiment_id, tag=tag)]


def test_an_initial_model_is_stored_once(tracking: Tracking, mlflow_model: Path, source_hash: str) -> None:
    assert tracking.find_initial(source_hash) is None
    announced: list[str] = []
    run_id = tracking.put_initial("the source", source_hash, mlflow_model, task_id="t", before_upload=announced.append)
    assert announced == [run_id]
    assert tracking.find_initial(source_hash) == run_id
    assert tracking.put_initial("the source", source_hash, mlflow_model, task_id="u") == run_id
    assert announced == [run_id]
    run = tracking.get_run(run_id)
    assert (run.name, run.status) == ("initial_model", "FINISHED")
    assert run.tags["tuneloop.model_source"] == "the source" and run.tags["tuneloop.task_id"] == "t"
    assert tracking.has_model(run_id)


def test_sources_that_differ_have_runs_that_differ(tracking: Tracking, mlflow_model: Path, source_hash: str) -> None:
    one = tracking.put_initial("a", source_hash, mlflow_model, task_id="t")
    other = tracking.put_initial("b", source_hash + "x", mlflow_model, task_id="t")
    assert one != other and tracking.find_initial(source_hash) == one


@pytest.mark.parametrize("state", ["storing", "stored"])
def test_what_a_killed_upload_left_is_replaced(
    tracking: Tracking, mlflow_model: Path, source_hash: str, state: str
) -> None:
    experiment = tracking.open_experiment(names.INITIAL_EXPERIMENT)
    tags = {names.MODEL_HASH_TAG: source_hash, names.MODEL_TAG: state, names.TASK_TAG: "t"}
    left = tracking.create_run(experiment, name="initial_model", params={}, tags=tags)
    tracking.artifacts.upload(left, mlflow_model)
    assert tracking.find_initial(source_hash) is None
    run_id = tracking.put_initial("a", source_hash, mlflow_model, task_id="t")
    assert initial_runs(tracking, source_hash) == [run_id]
    assert tracking.list_model_files(left) == []


def test_what_rivals_store_stays_for_them(mlflow_uri: str, mlflow_model: Path, source_hash: str) -> None:
    def put(rival: int) -> str:
        return Tracking(mlflow_uri).put_initial("a", source_hash, mlflow_model, task_id=str(rival))

    with ThreadPoolExecutor(4) as pool:
        answers = set(pool.map(put, range(4)))
    tracking = Tracking(mlflow_uri)
    assert all(map(tracking.has_model, answers))
    assert set(initial_runs(tracking, source_hash)) == answers  # what gave way is gone
    assert tracking.find_initial(source_hash) in answers


def test_a_deleted_initial_model_is_stored_again(tracking: Tracking, mlflow_model: Path, source_hash: str) -> None:
    client = mlflow.MlflowClient(tracking.server.uri)
    run_id = tracking.put_initial("a", source_hash, mlflow_model, task_id="t")
    client.delete_run(run_id)
    assert tracking.find_initial(source_hash) is None
    again = tracking.put_initial("a", source_hash, mlflow_model, task_id="t")
    assert again != run_id and tracking.find_initial(source_hash) == again
