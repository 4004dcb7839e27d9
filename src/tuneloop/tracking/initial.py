"""Initial models: one run of the experiment `iteration / initial` for each distinct source."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tuneloop.errors import NotFound
from tuneloop.tracking import search
from tuneloop.tracking.names import INITIAL_EXPERIMENT, INITIAL_RUN, MODEL_HASH_TAG, MODEL_SOURCE_TAG
from tuneloop.tracking.records import RunInfo
from tuneloop.tracking.run_models import RunModels


class InitialModels(RunModels):
    """The models that first iterations begin with."""

    def find_initial(self, source_hash: str) -> str | None:
        """The run that holds the initial model of this source; None when there is none."""
        experiment = self.find_experiment(INITIAL_EXPERIMENT)
        if experiment is None or experiment.lifecycle_stage != "active":
            return None
        return self._first_stored(self._runs_of(str(experiment.experiment_id), source_hash))

    def put_initial(
        self,
        source: str,
        source_hash: str,
        folder: Path,
        tags: Mapping[str, Any] | None = None,
        *,
        before_upload: Callable[[str], None] = lambda run_id: None,
    ) -> str:
        """Store an initial model, once for each hash.

        Args:
            source: what the model came from, for people.
            source_hash: tells sources apart.
            folder: the MLflow model.
            tags: more tags for the run.
            before_upload: called with the run's id before its model is stored.

        Returns:
            The id of the run that holds the model: one that was there already, or a new one.
        """
        experiment_id = self.open_experiment(INITIAL_EXPERIMENT)
        if (existing := self.find_initial(source_hash)) is not None:
            return existing
        about = {**(tags or {}), MODEL_SOURCE_TAG: source, MODEL_HASH_TAG: source_hash}
        mine = self.create_run(experiment_id, name=INITIAL_RUN, params={}, tags=about)
        before_upload(mine)
        try:
            self.store_model(mine, folder)
        except NotFound:  # a rival was done first, and tidied up
            if (existing := self.find_initial(source_hash)) is None:
                raise
            return existing
        chosen = self._choose(experiment_id, source_hash, mine)
        if chosen == mine:
            self.end_run(mine, "FINISHED")
        else:
            self.artifacts.delete(mine)
        for run in self._runs_of(experiment_id, source_hash):
            # What is neither chosen nor finished is a rival that gives way, or was left by a process that died.
            if run.run_id != chosen and run.status != "FINISHED" and self.delete_model(run.run_id):
                self.delete_run(run.run_id)
        return chosen

    def _choose(self, experiment_id: str, source_hash: str, mine: str) -> str:
        """The run to use when other tasks stored the same model meanwhile.

        One that is finished is in use already; among those that are not, the one begun first stays.
        """
        stored = [run for run in self._runs_of(experiment_id, source_hash) if run.says_stored]
        finished = [run for run in stored if run.status == "FINISHED"]
        return self._first_stored(finished) or self._first_stored(stored) or mine

    def _runs_of(self, experiment_id: str, source_hash: str) -> list[RunInfo]:
        return search.runs(self.server, experiment_id, tag=(MODEL_HASH_TAG, source_hash))

    def _first_stored(self, runs: list[RunInfo]) -> str | None:
        return next((run.run_id for run in runs if run.says_stored and self.artifacts.has(run.run_id)), None)
