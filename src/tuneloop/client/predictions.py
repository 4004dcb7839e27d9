"""The client's calls about predictions: answered, or written to a table."""

from __future__ import annotations

import dataclasses
import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from tuneloop.client.errors import ClientError, InvalidRequestError, JobFailedError
from tuneloop.client.models import ModelCalls
from tuneloop.client.relational import Progress, RelationalCalls
from tuneloop.client.tasks import TaskCalls, save
from tuneloop.client.transport import segment
from tuneloop.client.types import ModelRef, Task
from tuneloop.relational.sources import SUFFIXES, is_path, split_path

if TYPE_CHECKING:
    from tuneloop.relational.dataset import Dataset

Place = str | os.PathLike[str]

_ENTITIES = 10_000
_LONG = 3600.0  # seconds that looking at large tables may take


class PredictionCalls(RelationalCalls, ModelCalls, TaskCalls):
    """Predictions of models learnt from tables. Mixed into `Client`."""

    @overload
    def predict(
        self,
        dataset: Dataset | None = None,
        *,
        entities: Sequence[Mapping[str, Any]],
        model: str | None = None,
        version: str | int | None = None,
        alias: str | None = None,
        run_id: str | None = None,
        embeddings: bool = False,
        progress: Progress | None = None,
    ) -> list[dict[str, Any]]: ...

    @overload
    def predict(
        self,
        dataset: Dataset | None = None,
        *,
        source: Place | None = None,
        output: Place,
        model: str | None = None,
        version: str | int | None = None,
        alias: str | None = None,
        run_id: str | None = None,
        embeddings: bool = False,
        overwrite: bool = False,
        progress: Progress | None = None,
        callback: Callable[[Task], None] | None = None,
    ) -> Task: ...

    def predict(
        self,
        dataset: Dataset | None = None,
        *,
        entities: Sequence[Mapping[str, Any]] | None = None,
        source: Place | None = None,
        output: Place | None = None,
        model: str | None = None,
        version: str | int | None = None,
        alias: str | None = None,
        run_id: str | None = None,
        embeddings: bool = False,
        overwrite: bool = False,
        progress: Progress | None = None,
        callback: Callable[[Task], None] | None = None,
    ) -> list[dict[str, Any]] | Task:
        """Predict for entities at times: answer them, or write a table.

        Args:
            dataset: tables to look at instead of those recorded with the model. Without `source` and `entities` the
                predictions are for its test split.
            entities: any number of objects with the key of the model's entity and its time (Unix seconds, ISO 8601 or
                a `datetime`); they are answered, each as `prediction` with `probabilities`, or as `links`; or
            source: a table of keys and times: a file, `shop.duckdb#table`, `connection#schema.table`. Where it holds
                the labels too, `detail` of the answer tells the metrics.
            output: what to write: a local `.parquet` or `.csv` file, which is downloaded; or, where the service may
                write, `shop.duckdb#table` or `connection#schema.table`.
            model: `churn` (its latest version), `churn/3` or `churn@champion`.
            version: of the model; or
            alias: of the model; or
            run_id: an MLflow run whose model is registered; then `model` may be left out.
            embeddings: whether to add the entities' embeddings.
            overwrite: whether an output that exists is replaced.
            progress: called while files are sent, as for `validate`.
            callback: called with the task each time it was looked at, where a table is written.

        Returns:
            The predictions in the order of the entities; or the task that wrote the table, with `output`.

        Raises:
            ClientError: the output exists, or a local file cannot be read.
            NotFoundError: no such model or version.
            InvalidInputError: the entities have not the model's columns.
            JobFailedError: the task failed; the message says why.

        Example:
            >>> client.predict(entities=[{"customer_id": "c17", "timestamp": "2024-05-01"}], model="churn")
            [{'prediction': 0.83}]
            >>> client.predict(dataset, model="churn", version=2, output="churn.parquet", embeddings=True).output
            'churn.parquet'
        """
        if entities is not None and (source is not None or output is not None):
            raise InvalidRequestError("entities are answered: leave source and output out, or write them to a table")
        if output is not None:
            _check_free(output, overwrite)
        path = self._predict_path(model, version, alias, run_id)
        if entities is None and output is None:
            raise InvalidRequestError("say where to write the predictions: output, such as churn.parquet")
        sent = None if dataset is None else self.send_tables(dataset, progress=progress)
        body: dict[str, Any] = {"embeddings": embeddings}
        if sent is not None:
            body["params"] = {"dataset": sent.document()}
        if entities is not None:
            return self._predict_entities(path, body, list(entities))
        assert output is not None
        body["source"] = self._send_source(source, sent, progress)
        return self._predict_table(path, body, os.fspath(output), overwrite, callback)

    def _predict_entities(
        self, path: str, body: dict[str, Any], entities: list[Mapping[str, Any]]
    ) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for begin in range(0, len(entities), _ENTITIES):
            part = body | {"entities": [_said(each) for each in entities[begin : begin + _ENTITIES]]}
            found += self._transport.call("POST", path, body=part, timeout=_LONG)["predictions"]
        return found

    def _predict_table(
        self,
        path: str,
        body: dict[str, Any],
        output: str,
        overwrite: bool,
        callback: Callable[[Task], None] | None,
    ) -> Task:
        download = _is_download(output)
        if download:  # the service keeps it under a name that nobody else uses
            body |= {"output": f"{uuid.uuid4().hex}{Path(output).suffix.lower()}"}
        else:
            place, table = split_path(output)
            body |= {"output": f"{place.absolute()}{table}" if is_path(output) else output, "overwrite": overwrite}
        body["idempotency_key"] = uuid.uuid4().hex
        asked = self._transport.call("POST", path, body=body, timeout=_LONG)
        task = self.wait(asked["id"], callback=callback)
        if task.status != "done":
            raise JobFailedError(f"task {task.id} ended as {task.status}: {task.detail or 'it does not say why'}")
        if not download:
            return task
        url = f"{self._transport.url}/api/v1/tasks/{segment(task.id)}/output"
        written = save(self._transport, url, output, name=Path(output).name, overwrite=overwrite)
        return dataclasses.replace(task, output=str(written))

    def _send_source(self, source: Place | None, dataset: Dataset | None, progress: Progress | None) -> str:
        if source is not None:
            return self.send_source(os.fspath(source), progress=progress)
        task = dataset.task if dataset is not None else None
        if task is None or task.source is None or task.source.test is None:
            raise InvalidRequestError("say whom to predict for: entities, a source, or a dataset with a test split")
        return task.source.test

    def _predict_path(self, model: str | None, version: str | int | None, alias: str | None, run_id: str | None) -> str:
        if sum(each is not None for each in (version, alias, run_id)) > 1:
            raise InvalidRequestError("say which version: version, alias or run_id, one of them")
        if run_id is not None:
            ref = self._registered_run(model, run_id)
        elif model is None:
            raise InvalidRequestError("say which model: its name, or a run_id")
        elif version is not None or alias is not None:
            ref = ModelRef(model, str(version) if version is not None else f"@{str(alias).removeprefix('@')}")
        else:
            ref = ModelRef.parse(model)
        return f"/api/v1/models/{segment(ref.name)}/versions/{segment(ref.version)}/predict"

    def _registered_run(self, model: str | None, run_id: str) -> ModelRef:
        """A version that stands for a run's model."""
        models = self.models() if model is None else [self.get_model(model)]
        for each in models:
            for version in each.versions:
                if version.run_id == run_id:
                    return ModelRef(each.name, version.version)
        raise ClientError(
            f"the model of run {run_id} is not registered: client.register_model(name, run_id=…) does that"
        )


def _said(entity: Mapping[str, Any]) -> dict[str, Any]:
    """An entity as JSON has it; a time without a zone is one of the tables', in UTC."""
    return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in entity.items()}


def _is_download(output: str) -> bool:
    return is_path(output) and Path(output).suffix.lower() in SUFFIXES


def _check_free(output: Place, overwrite: bool) -> None:
    """Refuse what could not be written in the end."""
    name = os.fspath(output)
    if not _is_download(name):
        if is_path(name) and "#" not in name:
            raise InvalidRequestError(f"{name} is of no known kind: write .parquet, .csv or .duckdb#table")
        return
    path = Path(name)
    if path.exists() and not overwrite:
        raise ClientError(f"{path} exists already: choose another output, or pass overwrite=True to replace it")
    if not path.absolute().parent.is_dir():
        raise ClientError(f"{path} cannot be written: there is no folder {path.absolute().parent}")
