"""Iterations: which one is a method's most recent, and what goes when another takes its place."""

from typing import Any

from tuneloop.ids import now_micros
from tuneloop.tracking import names, search
from tuneloop.tracking.initial import InitialModels
from tuneloop.tracking.records import Iteration


class Tracking(InitialModels):
    """What Tuneloop keeps in MLflow: iterations, runs, and the models of runs.

    Every call is tried again while MLflow is away, for `retry_seconds`; then it raises `Unavailable`. Whatever a call
    does may be done again: after a lost answer, and by a process that goes on where a killed one was.
    """

    def open_iteration(self, method: str, batch_id: str) -> str:
        """The id of the experiment that is this iteration: created, found, or restored when it was deleted."""
        return self.open_experiment(names.iteration_name(method, batch_id))

    def latest_iteration(self, method: str) -> Iteration | None:
        """The method's last completed iteration that still holds the best model of the task that completed it."""
        completed = [each for each in self._iterations(method) if each.tags.get(names.COMPLETE_TASK_TAG)]
        for experiment in sorted(completed, key=_completed_at, reverse=True):
            task_id = experiment.tags[names.COMPLETE_TASK_TAG]
            chosen = experiment.tags.get(names.BEST_RUN_TAG)
            runs = [run for run in self.task_runs(experiment.experiment_id, task_id) if run.says_stored]
            # Unless it is said which is best, it is the last one: its predecessor is deleted only afterwards.
            for run in sorted(runs, key=lambda run: (run.run_id == chosen, run.started_at), reverse=True):
                if self.artifacts.has(run.run_id):
                    return Iteration(experiment.experiment_id, task_id, run)
        return None

    def complete_iteration(self, experiment_id: str, task_id: str, *, best_run_id: str = "") -> None:
        """Make this the method's most recent iteration, with the best model of this task."""
        self.tag_experiment(experiment_id, names.BEST_RUN_TAG, best_run_id)
        self.tag_experiment(experiment_id, names.COMPLETED_AT_TAG, str(now_micros()))
        self.tag_experiment(experiment_id, names.COMPLETE_TASK_TAG, task_id)  # the last: it decides

    def remove_earlier_iterations(self, method: str, *, keep_experiment_id: str, task_id: str) -> None:
        """Remove the method's completed iterations but one, and in that one the models of other tasks.

        A model that a registered version points to stays, and its experiment is renamed `kept / …`, where neither
        the next iteration nor `mlflow gc` looks for it.
        """
        for experiment in self._iterations(method):
            if experiment.experiment_id == keep_experiment_id:
                for run in search.runs(self.server, keep_experiment_id, deleted=True):
                    if run.tags.get(names.TASK_TAG) != task_id:
                        self.delete_model(run.run_id)
            elif experiment.tags.get(names.COMPLETE_TASK_TAG):
                self._remove_iteration(experiment, method)

    def _remove_iteration(self, experiment: Any, method: str) -> None:
        experiment_id = str(experiment.experiment_id)
        registered = False
        for run in search.runs(self.server, experiment_id, deleted=True):
            kept = not self.delete_model(run.run_id)
            registered = registered or kept or bool(search.versions_of(self.server, run.run_id))
        if registered:
            batch_id = names.iteration_batch(experiment.name, method) or ""
            self.rename_experiment(experiment_id, names.kept_name(method, batch_id, experiment_id))
        else:
            self.delete_experiment(experiment_id)

    def _iterations(self, method: str) -> list[Any]:
        found = search.experiments(self.server, names.ITERATION_PREFIX)
        return [experiment for experiment in found if names.iteration_batch(experiment.name, method) is not None]


def _completed_at(experiment: Any) -> int:
    text = experiment.tags.get(names.COMPLETED_AT_TAG, "")
    return int(text) if text.isdecimal() else 0
