"""Whole iterations on a real MLflow, with a method whose training takes no time."""

import dataclasses
import secrets

import pytest

from support.models import write_snapshot
from support.probe_method import ProbeMethod, ProbeSettings
from tuneloop.database import Database
from tuneloop.ids import new_id
from tuneloop.iteration.iterate import iterate
from tuneloop.iteration.job import IterationFailed, Job
from tuneloop.iteration.start_model import finished_record
from tuneloop.methods.contract import Canceled, Meta
from tuneloop.models.store import StoredModels
from tuneloop.tracking import Tracking


class Killed(BaseException):
    """The process dies here."""


class Watcher:
    """Follows an iteration, and can cancel it or kill it at a stage."""

    def __init__(self):
        self.known, self.stages, self.checks, self.cancel_after = {}, [], 0, None

    def check(self):
        self.checks += 1
        if self.cancel_after is not None and self.checks > self.cancel_after:
            raise Canceled

    def progress(self, **fields):
        self.stages.append(fields)

    def found(self, **fields):
        self.known.update(fields)


class Remembered:
    """Remembers steps as DBOS does; `die_after` names a step after whose work, before it is remembered, all ends."""

    def __init__(self):
        self.answers, self.die_after, self.done = {}, None, []

    def __call__(self, name, step):
        if name not in self.answers:
            answer = step()
            self.done.append(name)
            if name == self.die_after:
                self.die_after = None
                raise Killed
            self.answers[name] = answer
        return self.answers[name]


class World:
    def __init__(self, uri, folder):
        self.tracking = Tracking(uri, retry_seconds=20)
        database = Database(f"sqlite:///{folder}/t.sqlite")
        database.migrate()
        self.stored = StoredModels(database)
        self.folder = folder
        name = f"probe {secrets.token_hex(6)}"
        self.method = type("Probe", (ProbeMethod,), {"meta": Meta(name, "1", "a probe")})
        self.snapshot = write_snapshot(folder / "snapshot")
        self.name = name

    def job(self, batch_id=None, task_id=None, attempt=1, **settings):
        task_id = task_id or new_id()
        method = self.method(ProbeSettings(source=self.name, **settings))
        return Job(task_id, attempt, batch_id or new_id(), method, self.snapshot, self.folder / "work" / task_id)

    def run(self, job, *, watcher=None, durable=None):
        return iterate(
            job,
            tracking=self.tracking,
            stored=self.stored,
            observer=watcher or Watcher(),
            durable=durable or Remembered(),
        )

    def runs(self, job):
        experiment = self.tracking.open_iteration(job.name, job.batch_id)
        return self.tracking.task_runs(experiment, job.task_id)

    def reports(self, job):
        """The report files of each run of the job that has any."""
        from mlflow import MlflowClient

        client = MlflowClient(self.tracking.server.uri)
        found = {
            run.run_id: [file.path for file in client.list_artifacts(run.run_id, "report")] for run in self.runs(job)
        }
        return {run_id: files for run_id, files in found.items() if files}

    def has_models(self, job):
        return [self.tracking.has_model(run.run_id) for run in self.runs(job)]


@pytest.fixture
def world(mlflow_uri, tmp_path):
    return World(mlflow_uri, tmp_path)


def test_the_search_space_is_that_of_the_snapshot(world):
    from optuna.distributions import CategoricalDistribution

    world.method.search_space_for = lambda self, snapshot: {"x": CategoricalDistribution([len(snapshot.sessions())])}
    job = world.job(max_runs=1)
    world.run(job)
    assert [finished_record(run).params for run in world.runs(job)] == [{"x": 400}]


def test_the_best_run_is_kept_and_nothing_else(world):
    watcher, job = Watcher(), world.job(max_runs=5)
    outcome = world.run(job, watcher=watcher)
    runs = world.runs(job)
    best = max(runs, key=lambda run: run.metrics["test_score"])
    assert (outcome.best_run_id, outcome.detail) == (best.run_id, None)
    assert [run.run_id for run in runs if world.tracking.has_model(run.run_id)] == [best.run_id]
    assert {run.status for run in runs} == {"FINISHED"}
    assert len(runs) == 5
    assert not job.work_dir.exists()
    assert watcher.known["best_run_id"] == best.run_id
    assert watcher.stages[-1] == {"stage": "completing"}
    assert world.stored.known(best.run_id)


def test_runs_say_what_they_are(world):
    job = world.job(max_runs=1, seed=7)
    world.run(job)
    (run,) = world.runs(job)
    expected = {
        "tuneloop.method": world.name,
        "tuneloop.batch_id": job.batch_id,
        "tuneloop.task_id": job.task_id,
        "tuneloop.seed": "7",
        "tuneloop.outcome": "done",
        "tuneloop.data.sessions": "400",
    }
    assert expected.items() <= run.tags.items()
    assert run.tags["tuneloop.code_version"]
    assert run.params == {"x": "0.5"}
    history = world.tracking.metric_history(run.run_id, "test_score")
    assert history[0] == (0, 0.1)  # the start model
    assert [step for step, _ in history] == [0, 1, 2, 3, 4, 5, 6]
    assert world.tracking.metric_history(run.run_id, "min_train_loss")[-1][1] == 0.2


def test_the_next_iteration_starts_from_the_best_and_removes_it(world):
    first, second = world.job(), world.job()
    best = world.run(first).best_run_id
    watcher = Watcher()
    world.run(second, watcher=watcher)
    assert watcher.known["start_run_id"] == best
    assert not world.tracking.has_model(best)
    assert world.runs(second)[0].params == {"x": world.tracking.get_run(best).params["x"]}
    assert world.tracking.latest_iteration(world.name).task_id == second.task_id


def test_the_initial_model_is_stored_once_for_each_source(world):
    watchers = [Watcher(), Watcher()]
    for watcher in watchers:
        world.run(world.job(outcome="worse", max_runs=1), watcher=watcher)
    assert len({watcher.known["start_run_id"] for watcher in watchers}) == 1
    start = world.tracking.get_run(watchers[0].known["start_run_id"])
    assert start.tags["tuneloop.model_source"] == world.name
    assert start.name == "initial_model"


def test_a_model_that_ranks_worse_is_not_promoted(world):
    before = world.job()
    best = world.run(before).best_run_id
    job = world.job(outcome="worse")
    outcome = world.run(job)
    assert outcome.best_run_id is None
    assert "below the start model's" in outcome.detail
    assert world.has_models(job) == [False] * 3
    assert {run.tags["tuneloop.outcome"] for run in world.runs(job)} == {"ineligible"}
    assert world.tracking.latest_iteration(world.name).best.run_id == best


def test_a_run_that_is_behind_from_its_first_evaluation_on_is_pruned_and_keeps_no_model(world):
    job = world.job(prunable=True, max_runs=6)
    best = world.run(job).best_run_id
    runs = world.runs(job)
    outcomes = [run.tags["tuneloop.outcome"] for run in runs]
    assert outcomes[0] == "done" and "pruned" in outcomes
    assert {run.status for run in runs} == {"FINISHED"}
    assert world.has_models(job) == [run.run_id == best for run in runs]
    scores = [1 - abs(float(run.params["x"]) - 0.7) for run in runs]
    assert scores[[run.run_id for run in runs].index(best)] == max(scores)


def test_too_few_held_out_sessions_promote_nothing(world):
    job = world.job(held_out=19)
    outcome = world.run(job)
    assert outcome.best_run_id is None
    assert "19 usable held-out sessions" in outcome.detail
    assert world.has_models(job) == [False] * 3
    assert {run.status for run in world.runs(job)} == {"FINISHED"}


def test_diverging_runs_fail_and_the_others_go_on(world):
    job = world.job(outcome="nan_then_good")
    outcome = world.run(job)
    first, *others = world.runs(job)
    assert (first.status, first.tags["tuneloop.outcome"]) == ("FAILED", "diverged")
    assert {run.status for run in others} == {"FINISHED"}
    assert outcome.best_run_id in {run.run_id for run in others}


@pytest.mark.parametrize(("kind", "reason"), [("nan", "train_loss is nan"), ("error", "told to fail")])
def test_when_all_runs_fail_the_previous_iteration_stays(world, kind, reason):
    best = world.run(world.job()).best_run_id
    job = world.job(outcome=kind)
    with pytest.raises(IterationFailed, match=reason):
        world.run(job)
    assert {run.status for run in world.runs(job)} == {"FAILED"}
    assert world.tracking.latest_iteration(world.name).best.run_id == best
    assert not job.work_dir.exists()


def test_the_same_batch_again_uses_its_experiment(world):
    first = world.job()
    best = world.run(first).best_run_id
    second = dataclasses.replace(first, task_id=new_id(), work_dir=world.folder / "work" / "again")
    outcome = world.run(second)
    assert len(world.runs(first)) == len(world.runs(second)) == 3
    assert not world.tracking.has_model(best)
    assert world.tracking.has_model(outcome.best_run_id)


def test_the_same_batch_again_after_its_experiment_was_deleted(world):
    from mlflow import MlflowClient

    first = world.job()
    best = world.run(first).best_run_id
    experiment = world.tracking.open_iteration(first.name, first.batch_id)
    MlflowClient(world.tracking.server.uri).delete_experiment(experiment)
    second, watcher = world.job(batch_id=first.batch_id), Watcher()
    outcome = world.run(second, watcher=watcher)
    assert watcher.known["experiment_id"] == experiment
    assert watcher.known["start_run_id"] != best  # a deleted iteration is none
    assert world.tracking.latest_iteration(world.name).best.run_id == outcome.best_run_id


def test_the_best_run_carries_the_verdict_and_the_report(world):
    job = world.job(max_runs=5, report="words")
    outcome = world.run(job)
    best = world.tracking.get_run(outcome.best_run_id)
    assert outcome.detail == f"better: {best.metrics['test_score']:.6f}"
    assert best.tags["tuneloop.verdict"] == best.tags["mlflow.note.content"] == outcome.detail
    assert best.metrics["test_score_low"] == pytest.approx(best.metrics["test_score"] - 0.1)
    assert world.reports(job) == {best.run_id: ["report/page.html"]}
    # There were others, which were best for a while.
    assert sum("tuneloop.verdict" in run.tags for run in world.runs(job)) > 1


def test_the_report_goes_with_the_model_when_the_next_iteration_takes_its_place(world):
    first = world.job(report="words")
    world.run(first)
    assert len(world.reports(first)) == 1
    world.run(world.job(report="words"))
    from mlflow import MlflowClient

    client = MlflowClient(world.tracking.server.uri)
    client.restore_experiment(
        client.get_experiment_by_name(f"iteration / {world.name} / {first.batch_id}").experiment_id
    )
    assert world.reports(first) == {}


@pytest.mark.parametrize("report", ["none", "error"])
def test_without_a_verdict_and_a_report_the_model_is_kept_all_the_same(world, report):
    job = world.job(report=report)
    outcome = world.run(job)
    assert outcome.best_run_id is not None and outcome.detail is None
    assert sum(world.has_models(job)) == 1
    assert {run.tags["tuneloop.outcome"] for run in world.runs(job)} == {"done"}
    assert world.reports(job) == {}


@pytest.mark.parametrize("settings", [{"outcome": "worse"}, {"held_out": 19}])
def test_without_a_best_model_there_is_no_report(world, settings):
    job = world.job(report="words", **settings)
    assert world.run(job).detail.startswith("no best model")
    assert world.reports(job) == {}


def test_asked_for_again_after_a_cancel_the_verdict_is_the_same(world):
    expected = world.run(world.job(report="words")).detail
    world.tracking.complete_iteration(world.tracking.latest_iteration(world.name).experiment_id, "")
    job, watcher = world.job(report="words"), Watcher()
    real = watcher.progress

    def cancel(**fields):
        real(**fields)
        if fields.get("stage") == "completing":
            raise Canceled

    watcher.progress = cancel
    with pytest.raises(Canceled):
        world.run(job, watcher=watcher)
    assert world.run(dataclasses.replace(job, attempt=2)).detail == expected


@pytest.mark.parametrize("step", ["start model", "experiment", "run 1", "run 2", "run 3", "verdict", "complete"])
def test_killed_after_any_step_it_ends_the_same(world, step):
    reference = world.run(world.job(note_file=str(world.folder / "reference"), report="words"))
    expected = (world.folder / "reference").read_text().split()
    world.tracking.complete_iteration(world.tracking.get_run(reference.best_run_id).experiment_id, "")
    job, durable = world.job(note_file=str(world.folder / "notes"), report="words"), Remembered()
    durable.die_after = step
    with pytest.raises(Killed):
        world.run(job, durable=durable)
    outcome = world.run(job, durable=durable)
    assert (world.folder / "notes").read_text().split() == expected  # no training is repeated
    runs = world.runs(job)
    assert [run.status for run in runs] == ["FINISHED"] * 3
    assert [run.run_id for run in runs if world.tracking.has_model(run.run_id)] == [outcome.best_run_id]
    assert list(world.reports(job)) == [outcome.best_run_id]
    assert outcome.detail == reference.detail
    assert world.tracking.latest_iteration(world.name).best.run_id == outcome.best_run_id


def test_killed_while_training_the_run_starts_again(world):
    job, durable, watcher = world.job(seconds_per_step=0.2), Remembered(), Watcher()
    real = watcher.progress

    def die(**fields):
        real(**fields)
        if fields.get("epoch") == 3 and len(durable.answers) == 3:  # in the second run
            raise Killed

    watcher.progress = die
    with pytest.raises(Killed):
        world.run(job, watcher=watcher, durable=durable)
    outcome = world.run(job, durable=durable)
    assert [run.status for run in world.runs(job)] == ["FINISHED", "KILLED", "FINISHED", "FINISHED"]
    assert world.runs(job)[1].params == world.runs(job)[2].params
    assert sum(world.has_models(job)) == 1
    assert outcome.best_run_id is not None


def test_canceled_and_asked_for_again_it_goes_on(world):
    job, watcher = world.job(seconds_per_step=0.2, note_file=str(world.folder / "notes")), Watcher()
    real = watcher.progress

    def cancel(**fields):
        real(**fields)
        if fields.get("runs_done") == 1:
            watcher.cancel_after = watcher.checks + 3

    watcher.progress = cancel
    with pytest.raises(Canceled):
        world.run(job, watcher=watcher)
    assert not job.work_dir.exists()
    again = dataclasses.replace(job, attempt=2)
    assert world.run(again).best_run_id is not None
    notes = (world.folder / "notes").read_text().split()
    assert notes[1] == notes[2]
    assert len(notes) == 4  # the first run was not repeated


def test_failed_runs_are_tried_again_when_the_task_is(world):
    job = world.job(outcome="error")
    with pytest.raises(IterationFailed):
        world.run(job)
    mended = world.method(ProbeSettings(source=world.name))
    outcome = world.run(dataclasses.replace(job, attempt=2, method=mended))
    assert outcome.best_run_id is not None


def test_no_new_run_after_max_minutes(world):
    job = world.job(max_runs=50, seconds_per_step=0.2, steps=5, max_minutes=0.02)
    world.run(job)
    assert 1 <= len(world.runs(job)) <= 3


def test_a_registered_model_is_never_removed(world):
    from mlflow import MlflowClient

    client = MlflowClient(world.tracking.server.uri)
    first = world.job()
    best = world.run(first).best_run_id
    experiment = world.tracking.get_run(best).experiment_id
    name = f"m{secrets.token_hex(4)}"
    client.create_registered_model(name)
    client.create_model_version(name, f"runs:/{best}/model", best)
    second = world.job()
    world.run(second)
    assert world.tracking.has_model(best)
    assert client.get_experiment(experiment).name == f"kept / {world.name} / {first.batch_id} / {experiment}"
    assert world.tracking.latest_iteration(world.name).task_id == second.task_id
