"""Initial models: one run of the experiment `iteration / initial` for each distinct source."""

from collections.abc import Callable
from pathlib import Path

from tuneloop.tracking import search
from tuneloop.tracking.names import INITIAL_EXPERIMENT, INITIAL_RUN, MODEL_HASH_TAG, MODEL_SOURCE_TAG, TASK_TAG
from tuneloop.tracking.records import RunInfo
from tuneloop.tracking.run_models import RunModels


class InitialModels(RunModels):
    """The models that first iterations begin with."""

    def find_initial(self, source_hash: str) -> str | None:
        """The run that holds the initial model of this source; None when there is none."""
        experiment = self.find_experiment(INITIAL_EXPERIMENT)
        if experiment is None or experiment.lifecycle_stage != "active":
            return None
        runs = self._runs_of(str(experiment.experiment_id), source_hash)
        finished = (run.run_id for run in runs if run.status == "FINISHED" and run.says_stored)
        return next(filter(self.artifacts.has, finished), None)

    def put_initial(
        self,
        source: str,
        source_hash: str,
        folder: Path,
        *,
        task_id: str,
        before_upload: Callable[[str], None] = lambda run_id: None,
    ) -> str:
        """Store an initial model, once for each hash.

        Tasks that store the same model at the same moment may end with a run each: a finished one is in use, so no
        rival deletes it.

        Args:
            source: what the model came from, for people.
            source_hash: tells sources apart.
            folder: the MLflow model.
            task_id: the task that needs it. What an interrupted try of the same task left is deleted.
            before_upload: called with the run's id before its model is stored.

        Returns:
            The id of the run that holds the model: one that was there already, or a new one.
        """
        experiment_id = self.open_experiment(INITIAL_EXPERIMENT)
        for run in self._runs_of(experiment_id, source_hash):
            if run.status != "FINISHED" and run.tags.get(TASK_TAG) == task_id:
                self._discard(run.run_id)
        if (existing := self.find_initial(source_hash)) is not None:
            return existing
        tags = {TASK_TAG: task_id, MODEL_SOURCE_TAG: source, MODEL_HASH_TAG: source_hash}
        mine = self.create_run(experiment_id, name=INITIAL_RUN, params={}, tags=tags)
        before_upload(mine)
        self.store_model(mine, folder)
        if (existing := self.find_initial(source_hash)) is not None:  # a rival was faster
            self._discard(mine)
            return existing
        self.end_run(mine, "FINISHED")
        return mine

    def _discard(self, run_id: str) -> None:
        if self.delete_model(run_id):
            self.delete_run(run_id)

    def _runs_of(self, experiment_id: str, source_hash: str) -> list[RunInfo]:
        return search.runs(self.server, experiment_id, tag=(MODEL_HASH_TAG, source_hash))
