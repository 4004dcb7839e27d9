"""Runs: begun, tagged, measured, ended."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any, Literal

import structlog

from tuneloop.errors import Conflict, InvalidInput, NotFound
from tuneloop.ids import new_id
from tuneloop.tracking import search
from tuneloop.tracking.experiments import Experiments
from tuneloop.tracking.names import REQUEST_TAG, TASK_TAG
from tuneloop.tracking.records import RunInfo

log = structlog.get_logger(__name__)

# What MLflow takes.
MAX_TAG_LENGTH = 8000
MAX_PARAM_LENGTH = 6000
MAX_PER_REQUEST = 100


class Runs(Experiments):
    """The runs of an MLflow server. Writing to a run that somebody deleted does nothing but log a warning."""

    def create_run(self, experiment_id: str, *, name: str, params: Mapping[str, Any], tags: Mapping[str, Any]) -> str:
        """The id of a new run, which is running. An experiment that was deleted meanwhile is restored."""
        client = self.server.client
        request = new_id()
        texts = {**_clipped(tags, MAX_TAG_LENGTH), REQUEST_TAG: request}
        tries = 0

        def create() -> str:
            nonlocal tries
            tries += 1
            if tries > 1:  # the answer to an earlier try may have been lost
                for run in search.runs(self.server, experiment_id, tag=(REQUEST_TAG, request)):
                    return run.run_id
            return str(client.create_run(experiment_id, tags=texts, run_name=name).info.run_id)

        try:
            run_id = self.server.call(create)
        except InvalidInput:
            if not self.restore_experiment(experiment_id):
                raise
            run_id = self.server.call(create)
        self._log_params(run_id, _clipped(params, MAX_PARAM_LENGTH))
        return run_id

    def set_tags(self, run_id: str, tags: Mapping[str, Any]) -> None:
        """Tag a run."""
        from mlflow.entities import RunTag

        client = self.server.client
        for chunk in _chunks([RunTag(key, value) for key, value in _clipped(tags, MAX_TAG_LENGTH).items()]):
            self._write(run_id, partial(client.log_batch, run_id, tags=chunk))

    def remove_tag(self, run_id: str, key: str) -> None:
        """Remove a tag of a run; nothing when it has none of this name."""
        client = self.server.client
        try:
            self._write(run_id, lambda: client.delete_tag(run_id, key))
        except NotFound:
            return

    def end_run(
        self, run_id: str, status: Literal["FINISHED", "FAILED", "KILLED"], tags: Mapping[str, Any] | None = None
    ) -> None:
        """Tag a run, and then end it."""
        client = self.server.client
        self.set_tags(run_id, tags or {})
        self._write(run_id, lambda: client.set_terminated(run_id, status))

    def log_metrics(self, run_id: str, metrics: Sequence[Any]) -> None:
        """Log up to 1,000 `mlflow.entities.Metric`; the same ones again change nothing."""
        client = self.server.client
        self._write(run_id, lambda: client.log_batch(run_id, metrics=metrics))

    def get_run(self, run_id: str) -> RunInfo:
        """A run, a deleted one too.

        Raises:
            NotFound: there is none of this id.
        """
        return search.run(self.server, run_id)

    def task_runs(self, experiment_id: str, task_id: str) -> list[RunInfo]:
        """The runs of a task, in the order they began."""
        return search.runs(self.server, experiment_id, tag=(TASK_TAG, task_id))

    def metric_history(self, run_id: str, key: str) -> list[tuple[int, float]]:
        """Steps and values of a metric, by step."""
        client = self.server.client
        points = self.server.call(lambda: client.get_metric_history(run_id, key))
        return [(point.step, point.value) for point in sorted(points, key=lambda each: (each.step, each.timestamp))]

    def delete_run(self, run_id: str) -> None:
        """Soft-delete a run; nothing when it is deleted already."""
        client = self.server.client
        self._write(run_id, lambda: client.delete_run(run_id))

    def _log_params(self, run_id: str, params: Mapping[str, str]) -> None:
        from mlflow.entities import Param

        client = self.server.client
        for chunk in _chunks([Param(key, value) for key, value in params.items()]):
            self._write(run_id, partial(client.log_batch, run_id, params=chunk))

    def _write(self, run_id: str, work: Callable[[], Any]) -> None:
        try:
            self.server.call(work)
        except (NotFound, InvalidInput, Conflict):
            if not self._is_gone(run_id):
                raise
            log.warning("the run was deleted in MLflow", run_id=run_id)

    def _is_gone(self, run_id: str) -> bool:
        try:
            return self.get_run(run_id).is_deleted
        except NotFound:
            return True


def _clipped(values: Mapping[str, Any], length: int) -> dict[str, str]:
    return {key: str(value)[:length] for key, value in values.items()}


def _chunks(entries: Sequence[Any]) -> Iterator[list[Any]]:
    rest = iter(entries)
    while chunk := list(islice(rest, MAX_PER_REQUEST)):
        yield chunk
