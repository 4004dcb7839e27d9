"""Runs in a real MLflow."""

import math
from collections.abc import Callable

import mlflow
import pytest

from tuneloop.errors import InvalidInput, NotFound
from tuneloop.tracking import MetricStream, Tracking


def test_a_run_keeps_what_it_is_given(tracking: Tracking, method: str, batch: Callable[[], str]) -> None:
    experiment = tracking.open_iteration(method, batch())
    params = {f"p{number}": number for number in range(150)}
    tags = {"tuneloop.task_id": "t1", "tuneloop.method": method, "tuneloop.long": "x" * 10_000}
    run_id = tracking.create_run(experiment, name="run 1", params={**params, "loss": "y" * 7000}, tags=tags)
    tracking.set_tags(run_id, {f"tuneloop.data.{number}": number for number in range(120)})
    (run,) = tracking.task_runs(experiment, "t1")
    assert (run.run_id, run.name, run.status, run.ended_at) == (run_id, "run 1", "RUNNING", None)
    assert run.params["p149"] == "149" and len(run.params["loss"]) == 6000
    assert run.tags["tuneloop.method"] == method and run.tags["tuneloop.data.119"] == "119"
    assert len(run.tags["tuneloop.long"]) == 8000
    tracking.end_run(run_id, "FINISHED", {"tuneloop.outcome": "done"})
    run = tracking.get_run(run_id)
    assert (run.status, run.tags["tuneloop.outcome"]) == ("FINISHED", "done")
    assert run.ended_at is not None and run.ended_at >= run.started_at


def test_task_runs_are_those_of_the_task_alone(tracking: Tracking, method: str, batch: Callable[[], str]) -> None:
    experiment = tracking.open_iteration(method, batch())
    strange = 'o\'brien "100%" \\'
    mine = [
        tracking.create_run(experiment, name=str(number), params={}, tags={"tuneloop.task_id": strange})
        for number in range(3)
    ]
    tracking.create_run(experiment, name="other", params={}, tags={"tuneloop.task_id": "other"})
    tracking.create_run(experiment, name="none", params={}, tags={})
    assert [run.run_id for run in tracking.task_runs(experiment, strange)] == mine
    assert [run.name for run in tracking.task_runs(experiment, "other")] == ["other"]
    assert tracking.task_runs(experiment, "' OR '1'='1") == []


def test_a_stream_brings_metrics_and_their_series(tracking: Tracking, method: str, batch: Callable[[], str]) -> None:
    run_id = tracking.create_run(tracking.open_iteration(method, batch()), name="run", params={}, tags={})
    stream = MetricStream(tracking, run_id)
    for step in range(600):
        stream.log({"train_loss": float(step), "test_mrr": math.nan if step == 3 else 0.5}, step=step)
    stream.close()
    assert tracking.metric_history(run_id, "train_loss") == [(step, float(step)) for step in range(600)]
    assert tracking.metric_history(run_id, "sliding_train_loss")[-1] == (599, 594.5)
    assert math.isnan(tracking.metric_history(run_id, "test_mrr")[3][1])
    assert tracking.get_run(run_id).metrics["mean_train_loss"] == 299.5


def test_metrics_arrive_while_the_run_is_running(tracking: Tracking, method: str, batch: Callable[[], str]) -> None:
    run_id = tracking.create_run(tracking.open_iteration(method, batch()), name="run", params={}, tags={})
    stream = MetricStream(tracking, run_id)
    stream.log({"train_loss": 1.0}, step=0)
    while not tracking.metric_history(run_id, "train_loss"):
        pass
    stream.close(flush=False)


def test_a_metric_that_mlflow_refuses_is_an_error_not_a_silence(
    tracking: Tracking, method: str, batch: Callable[[], str]
) -> None:
    run_id = tracking.create_run(tracking.open_iteration(method, batch()), name="run", params={}, tags={})
    stream = MetricStream(tracking, run_id)
    stream.log({"ndcg@10": 0.5}, step=0)
    with pytest.raises(InvalidInput, match="ndcg@10"):
        stream.close()


def test_a_run_that_somebody_deleted_stops_nothing(tracking: Tracking, method: str, batch: Callable[[], str]) -> None:
    experiment = tracking.open_iteration(method, batch())
    run_id = tracking.create_run(experiment, name="run", params={}, tags={"tuneloop.task_id": "t1"})
    stream = MetricStream(tracking, run_id)
    mlflow.MlflowClient(tracking.server.uri).delete_run(run_id)
    stream.log({"train_loss": 1.0}, step=0)
    stream.close()
    tracking.set_tags(run_id, {"tuneloop.seed": 1})
    tracking.end_run(run_id, "FINISHED")
    assert tracking.task_runs(experiment, "t1") == []
    assert tracking.get_run(run_id).is_deleted
    assert not tracking.has_model(run_id)


def test_a_run_can_begin_in_an_experiment_that_was_just_deleted(
    tracking: Tracking, method: str, batch: Callable[[], str]
) -> None:
    experiment = tracking.open_iteration(method, batch())
    mlflow.MlflowClient(tracking.server.uri).delete_experiment(experiment)
    run_id = tracking.create_run(experiment, name="run", params={}, tags={})
    assert tracking.get_run(run_id).experiment_id == experiment


def test_unknown_runs_are_not_found(tracking: Tracking) -> None:
    for run_id in ("0" * 32, "../../etc", "a b", "'"):
        with pytest.raises(NotFound):
            tracking.get_run(run_id)
        assert not tracking.has_model(run_id)
        with pytest.raises(NotFound):
            tracking.list_model_files(run_id)
