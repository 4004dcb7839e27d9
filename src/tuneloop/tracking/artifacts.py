"""The files of a run's model: plain artifacts under `model/`, so that its weights lie once in the artifact store.

(`mlflow.*.log_model` keeps models under the experiment instead, where deleting one frees no bytes.)
"""

import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from tuneloop.errors import InvalidInput, NotFound
from tuneloop.tracking import search
from tuneloop.tracking.names import MODEL_FOLDER, REPORT_FOLDER
from tuneloop.tracking.server import Server

CHUNK = 1 << 20


@dataclass(frozen=True)
class ModelFile:
    """A file of a stored model: its path below the model's folder, and its size in bytes."""

    path: str
    size: int


class Artifacts:
    """The model files of runs. Every call goes file by file, so that a cancel is heard between them."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def list(self, run_id: str) -> list[ModelFile]:
        """The files of the run's model, by path; empty when there are none.

        Raises:
            NotFound: there is no such run.
        """
        repository = self._repository(run_id)
        files, folders = [], [MODEL_FOLDER]
        while folders:
            folder = folders.pop()
            for info in self._server.call(partial(repository.list_artifacts, folder)):
                if info.path == folder:
                    continue
                if info.is_dir:
                    folders.append(info.path)
                else:
                    path = PurePosixPath(info.path).relative_to(MODEL_FOLDER)
                    files.append(ModelFile(_checked(path), int(info.file_size or 0)))
        return sorted(files, key=lambda file: file.path)

    def has(self, run_id: str) -> bool:
        """Whether the run has a model's description (`MLmodel`) among its files."""
        repository = self._repository(run_id)
        top = self._server.call(lambda: repository.list_artifacts(MODEL_FOLDER))
        return any(info.path == f"{MODEL_FOLDER}/MLmodel" for info in top)

    def upload(self, run_id: str, folder: Path, *, into: str = MODEL_FOLDER) -> None:
        """Store the files below `folder` as the run's model, or in another folder, over those of the same names."""
        repository = self._repository(run_id)
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            target = PurePosixPath(into, *file.relative_to(folder).parts[:-1])
            self._server.call(partial(repository.log_artifact, str(file), str(target)))

    def download(self, run_id: str, folder: Path) -> None:
        """Write the run's model to `folder`, which appears when it is whole.

        Raises:
            NotFound: there is no such run, or it has no model.
        """
        files = self.list(run_id)
        if not files:
            raise NotFound(f"run {run_id} has no stored model")
        repository = self._repository(run_id)
        draft = folder.with_name(f"{folder.name}.download")
        shutil.rmtree(draft, ignore_errors=True)
        try:
            for file in files:
                target = draft.joinpath(*PurePosixPath(file.path).parts)
                target.parent.mkdir(parents=True, exist_ok=True)
                self._fetch(repository, file.path, target)
            shutil.rmtree(folder, ignore_errors=True)
            draft.rename(folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    def open(self, run_id: str, path: str) -> Iterator[bytes]:
        """The bytes of one file of the run's model, fetched before the first chunk is given.

        Raises:
            NotFound: there is no such file.
        """
        folder = tempfile.TemporaryDirectory(prefix="tuneloop-")
        try:
            copy = Path(folder.name, "file")
            self.fetch(run_id, path, copy)
        except BaseException:
            folder.cleanup()
            raise
        return _chunks(copy, folder)

    def fetch(self, run_id: str, path: str, target: Path) -> None:
        """Write one file of the run's model to `target`.

        Raises:
            NotFound: there is no such file.
        """
        self._fetch(self._repository(run_id), _checked(PurePosixPath(path)), target)

    def delete(self, run_id: str) -> None:
        """Delete the files of the run's model, its report, and their folders; nothing when there are none."""
        repository = self._repository(run_id)
        for folder in (REPORT_FOLDER, MODEL_FOLDER):
            self._server.call(partial(repository.delete_artifacts, folder))

    def _fetch(self, repository: Any, path: str, target: Path) -> None:
        # MLflow's public download wraps each failure in an error that no longer says what went wrong.
        remote = f"{MODEL_FOLDER}/{path}"
        try:
            self._server.call(lambda: repository._download_file(remote, str(target)))
        except InvalidInput:  # a folder
            raise NotFound(f"a model has no file {path!r}") from None

    def _repository(self, run_id: str) -> Any:
        uri = search.run(self._server, run_id).artifact_uri

        def resolve() -> Any:
            from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

            return get_artifact_repository(uri, self._server.uri, self._server.uri)

        return self._server.call(resolve)


def logged_models_tag(run_id: str, folder: Path) -> str:
    """The value of the run tag that makes MLflow's page of the run offer to register the model in `folder`."""
    from mlflow.models import Model

    description = Model.load(str(folder)).get_tags_dict()
    return json.dumps([{**description, "run_id": run_id, "artifact_path": MODEL_FOLDER}])


def _checked(path: PurePosixPath) -> str:
    if path.is_absolute() or ".." in path.parts:
        raise NotFound(f"a model has no file {str(path)!r}")
    return str(path)


def _chunks(file: Path, folder: "tempfile.TemporaryDirectory[str]") -> Iterator[bytes]:
    with folder, file.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            yield chunk
