"""The models of runs: stored whole or not at all, deleted unless somebody registered them."""

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from tuneloop.errors import NotFound
from tuneloop.tracking import search
from tuneloop.tracking.artifacts import Artifacts, ModelFile, logged_models_tag
from tuneloop.tracking.names import LOGGED_MODELS_TAG, MODEL_TAG, REMOVING_TAG, REPORT_FOLDER
from tuneloop.tracking.runs import Runs


class RunModels(Runs):
    """The models that runs hold. A run's tag `tuneloop.model` is `stored` when its model is whole."""

    @cached_property
    def artifacts(self) -> Artifacts:
        """The files of the models."""
        return Artifacts(self.server)

    def store_model(self, run_id: str, folder: Path, *, report: Path | None = None) -> None:
        """Store the MLflow model in `folder` as the run's; nothing when the run has its model already.

        The files below `report` are stored beside it, and stay as long as the model.

        Raises:
            NotFound: there is no such run, or it was deleted.
        """
        if self.has_model(run_id):
            return
        if self.get_run(run_id).is_deleted:
            raise NotFound(f"run {run_id} was deleted in MLflow")
        self.remove_tag(run_id, REMOVING_TAG)
        self.set_tags(run_id, {MODEL_TAG: "storing"})
        self.artifacts.delete(run_id)  # what an interrupted try may have left
        if report is not None:
            self.artifacts.upload(run_id, report, into=REPORT_FOLDER)
        self.artifacts.upload(run_id, folder)
        self.set_tags(run_id, {LOGGED_MODELS_TAG: logged_models_tag(run_id, folder)})
        self.set_tags(run_id, {MODEL_TAG: "stored"})

    def has_model(self, run_id: str) -> bool:
        """Whether the run exists and holds a whole model."""
        try:
            run = self.get_run(run_id)
        except NotFound:
            return False
        return run.says_stored and not run.is_deleted and self.artifacts.has(run_id)

    def delete_model(self, run_id: str) -> bool:
        """Delete the run's model, whole or half stored, and its report from the artifact store.

        Returns:
            False when a registered version points to the run: then the model stays.
        """
        try:
            run = self.get_run(run_id)
        except NotFound:
            return True
        if MODEL_TAG not in run.tags:
            return True
        # Whoever registers looks for this tag after creating a version, and takes the version back.
        self.set_tags(run_id, {REMOVING_TAG: "true"})
        if search.versions_of(self.server, run_id):
            self.remove_tag(run_id, REMOVING_TAG)
            return False
        self.artifacts.delete(run_id)
        for key in (LOGGED_MODELS_TAG, MODEL_TAG, REMOVING_TAG):
            self.remove_tag(run_id, key)
        return True

    def download_model(self, run_id: str, folder: Path) -> Path:
        """Write the run's model to `folder`, replacing it, and return it.

        Raises:
            NotFound: the run has no model.
        """
        self.artifacts.download(run_id, folder)
        return folder

    def list_model_files(self, run_id: str) -> list[ModelFile]:
        """The files of the run's model, by path; empty when it has none.

        Raises:
            NotFound: there is no such run.
        """
        return self.artifacts.list(run_id)

    def open_model_file(self, run_id: str, path: str) -> Iterator[bytes]:
        """The bytes of one file of the run's model; `path` is as in `list_model_files`.

        Raises:
            NotFound: there is no such file.
        """
        return self.artifacts.open(run_id, path)
