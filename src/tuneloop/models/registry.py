"""The model registry: register what runs stored, look it up by name and version, point aliases at versions."""

import re
import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any

from tuneloop.database import Database
from tuneloop.errors import Conflict, InvalidInput, NotFound
from tuneloop.ids import new_id
from tuneloop.models.records import Model, Version, check_model_name, to_version
from tuneloop.models.store import StoredModels
from tuneloop.tracking import RunInfo, Tracking
from tuneloop.tracking import search as find
from tuneloop.tracking.names import METHOD_TAG, MODEL_FOLDER, REMOVING_TAG, TASK_TAG

REQUEST_TAG = "tuneloop.request_id"
# Runs are remembered once they are over, as what they measured does not change any more.
MAX_REMEMBERED_RUNS = 1000
_NUMBER = re.compile(r"[1-9][0-9]{0,8}")
_ALIAS = re.compile(r"[A-Za-z0-9_-]{1,255}")
_RESERVED_ALIAS = re.compile(r"latest|v[0-9]+", re.IGNORECASE)


class ModelRegistry:
    """The registry of an MLflow server.

    Args:
        tracking_uri: of the server.
        database: knows the files that Tuneloop's runs stored.
        retry_seconds: how long a call waits for an MLflow that does not answer, before it raises `Unavailable`.
    """

    def __init__(self, tracking_uri: str, database: Database, *, retry_seconds: float = 10) -> None:
        self.tracking = Tracking(tracking_uri, retry_seconds=retry_seconds)
        self.stored = StoredModels(database)
        self._server = self.tracking.server
        self._registering = threading.Lock()
        self._runs: dict[str, RunInfo] = {}

    def register(
        self, name: str, *, run_id: str, description: str | None = None, request_id: str | None = None
    ) -> Version:
        """Register a run's model as a new version of `name`, which is created when there is none; no file is copied.

        Args:
            name: of the registered model.
            run_id: the run whose model it is.
            description: of the version.
            request_id: a repeated request with the same one gives the same version.

        Raises:
            InvalidInput: no such name is possible.
            NotFound: there is no such run.
            Conflict: the run has no stored model, or it is being removed; or `request_id` was used for another run.
        """
        check_model_name(name)
        with self._registering:
            self._check_registrable(run_id)
            if request_id is not None and (earlier := self._by_request(name, request_id)) is not None:
                return _same_run(earlier, run_id)
            self._create_model(name)
            version = self._create_version(name, run_id, description, request_id or new_id())
        if self.tracking.has_model(run_id):
            return version
        # It was removed while it was registered; a removal that came later sees the version, and leaves the files.
        self._delete_version(version)
        raise Conflict(f"the model of run {run_id} was removed before it could be registered")

    def models(self) -> list[Model]:
        """All registered models, by name."""
        client = self._server.client
        found = find.pages(
            self._server, lambda token: client.search_registered_models(max_results=find.PAGE, page_token=token)
        )
        versions: dict[str, list[Version]] = {}
        for version in _newest_first(find.versions(self._server, "")):
            versions.setdefault(version.name, []).append(version)
        return [
            self._to_model(model, versions.get(model.name, [])) for model in sorted(found, key=lambda each: each.name)
        ]

    def model(self, name: str) -> Model:
        """A registered model.

        Raises:
            NotFound: there is none of this name.
        """
        client = self._server.client
        try:
            found = self._server.call(lambda: client.get_registered_model(name))
        except (NotFound, InvalidInput):
            raise NotFound(f"there is no model {name!r}") from None
        return self._to_model(found, self._versions(name))

    def set_alias(self, name: str, alias: str, version: str | int) -> Version:
        """Point an alias at a version (a number, `latest` or `@alias`); the version.

        Raises:
            InvalidInput: no such alias is possible.
            NotFound: there is no such model or version.
        """
        if not _ALIAS.fullmatch(alias) or _RESERVED_ALIAS.fullmatch(alias):
            raise InvalidInput(
                f"{alias!r} is no possible alias: use 1 to 255 letters, digits, `_` and `-`, other than `latest` and "
                "version numbers such as `v1`",
                field="alias",
            )
        found = self.resolve(name, str(version))
        client = self._server.client
        self._server.call(lambda: client.set_registered_model_alias(name, alias, found.version))
        return self.resolve(name, found.version)

    def resolve(self, name: str, version: str) -> Version:
        """The version that a number, `latest` or `@alias` means now.

        Raises:
            NotFound: there is no such model, version or alias.
        """
        client = self._server.client
        if version == "latest":
            if not (versions := self._versions(name)):
                raise NotFound(f"there is no model {name!r} with a version")
            return versions[0]
        ask: Callable[[], Any]
        if version.startswith("@"):
            ask = partial(client.get_model_version_by_alias, name, version[1:])
        elif _NUMBER.fullmatch(version):
            ask = partial(client.get_model_version, name, version)
        else:
            raise NotFound(f"there is no version {version!r}: give a number, `latest` or `@alias`")
        try:
            return to_version(self._server.call(ask))
        except (NotFound, InvalidInput):
            raise NotFound(f"there is no version {version!r} of a model {name!r}") from None

    def source_run(self, version: Version) -> str:
        """The run whose stored model a version stands for, whoever registered it.

        Raises:
            NotFound: there is no such version.
            Conflict: the version points to something else than the model of a Tuneloop run.
        """
        client = self._server.client
        uri = self._server.call(lambda: client.get_model_version_download_uri(version.name, version.version))
        run_id = version.run_id or ""
        if uri != f"runs:/{run_id}/{MODEL_FOLDER}" and uri != self._model_uri(run_id):
            run_id = ""
        if not run_id or not self.stored.known(run_id):
            raise Conflict(
                f"version {version.version} of {version.name!r} points to {uri}, which is not the model of a Tuneloop "
                "run: only models that a Tuneloop run stored are loaded"
            )
        return run_id

    def _model_uri(self, run_id: str) -> str | None:
        try:
            return f"{self.tracking.get_run(run_id).artifact_uri}/{MODEL_FOLDER}"
        except NotFound:
            return None

    def _check_registrable(self, run_id: str) -> None:
        run = self.tracking.get_run(run_id)
        if run.is_deleted:
            raise NotFound(f"run {run_id} was deleted in MLflow")
        if REMOVING_TAG in run.tags:
            raise Conflict(f"the model of run {run_id} is being removed")
        if not self.tracking.has_model(run_id):
            raise Conflict(f"run {run_id} has no stored model: only the best run of an iteration keeps its model")

    def _create_model(self, name: str) -> None:
        client = self._server.client
        try:
            self._server.call(lambda: client.create_registered_model(name))
        except Conflict:  # it is there, or came to be meanwhile
            return

    def _create_version(self, name: str, run_id: str, description: str | None, request_id: str) -> Version:
        client = self._server.client
        tries = 0

        def create() -> Version:
            nonlocal tries
            tries += 1
            if tries > 1 and (earlier := self._by_request(name, request_id)) is not None:
                return earlier  # the answer to an earlier try was lost
            made = client.create_model_version(
                name,
                f"runs:/{run_id}/{MODEL_FOLDER}",
                run_id,
                tags={REQUEST_TAG: request_id},
                description=description,
                await_creation_for=0,
            )
            return to_version(made)

        mine = self._server.call(create)
        first = self._by_request(name, request_id) or mine
        if first.version != mine.version:  # another process did the same request at the same time
            self._delete_version(mine)
        return _same_run(first, run_id)

    def _delete_version(self, version: Version) -> None:
        client = self._server.client
        try:
            self._server.call(lambda: client.delete_model_version(version.name, version.version))
        except NotFound:
            return

    def _by_request(self, name: str, request_id: str) -> Version | None:
        """The first version that a request made."""
        made = [each for each in self._raw_versions(name) if each.tags.get(REQUEST_TAG) == request_id]
        return min(map(to_version, made), key=lambda each: int(each.version), default=None)

    def _versions(self, name: str) -> list[Version]:
        return _newest_first(self._raw_versions(name))

    def _raw_versions(self, name: str) -> list[Any]:
        return [each for each in find.versions(self._server, find.equals("name", name)) if each.name == name]

    def _to_model(self, model: Any, versions: list[Version]) -> Model:
        aliases = {alias: str(version) for alias, version in dict(model.aliases).items()}
        named: dict[str, list[str]] = {}
        for alias, number in sorted(aliases.items()):
            named.setdefault(number, []).append(alias)
        return Model(
            name=model.name,
            description=model.description or None,
            created_at=model.creation_timestamp * 1000,
            versions=tuple(
                self._with_run(replace(each, aliases=tuple(named.get(each.version, ())))) for each in versions
            ),
            aliases=aliases,
        )

    def _with_run(self, version: Version) -> Version:
        run = self._run(version.run_id) if version.run_id else None
        if run is None:
            return version
        return replace(version, metrics=run.metrics, task_id=run.tags.get(TASK_TAG), method=run.tags.get(METHOD_TAG))

    def _run(self, run_id: str) -> RunInfo | None:
        if run_id in self._runs:
            return self._runs[run_id]
        try:
            run = self.tracking.get_run(run_id)
        except NotFound:
            return None
        if run.ended_at is not None:
            if len(self._runs) >= MAX_REMEMBERED_RUNS:
                self._runs.clear()
            self._runs[run_id] = run
        return run


def _same_run(version: Version, run_id: str) -> Version:
    if version.run_id != run_id:
        raise Conflict(f"this request already registered run {version.run_id} as version {version.version}")
    return version


def _newest_first(versions: Iterable[Any]) -> list[Version]:
    return sorted(map(to_version, versions), key=lambda each: -int(each.version))
