"""Experiments: found, created, restored."""

from collections.abc import Callable
from functools import partial
from typing import Any

from tuneloop.errors import Conflict, InvalidInput, NotFound, Unavailable
from tuneloop.tracking.names import EXPERIMENT_KIND
from tuneloop.tracking.server import Server

TRIES = 5


class Experiments:
    """The experiments of an MLflow server.

    Args:
        uri: the tracking URI of the server.
        retry_seconds: how long to wait for an MLflow that does not answer.
        check: called at least every half second while a call lasts; may raise to give it up.
    """

    def __init__(self, uri: str, *, retry_seconds: float = 600, check: Callable[[], None] = lambda: None) -> None:
        self.server = Server(uri, retry_seconds=retry_seconds, check=check)

    def find_experiment(self, name: str) -> Any | None:
        """MLflow's experiment of this name, a deleted one too; None when there is none."""
        client = self.server.client
        return self.server.call(lambda: client.get_experiment_by_name(name))

    def open_experiment(self, name: str) -> str:
        """The id of the active experiment of this name: found, created, or restored when somebody deleted it."""
        client = self.server.client
        for _ in range(TRIES):  # somebody else may create, delete or restore it meanwhile
            experiment = self.find_experiment(name)
            try:
                if experiment is None:
                    return str(self.server.call(lambda: client.create_experiment(name, tags=EXPERIMENT_KIND)))
                if experiment.lifecycle_stage == "active":
                    return str(experiment.experiment_id)
                self.server.call(partial(client.restore_experiment, experiment.experiment_id))
            except (Conflict, NotFound, InvalidInput) as error:
                refused = error
                continue
        raise Unavailable(f"MLflow opens no experiment {name!r}: {refused}")

    def restore_experiment(self, experiment_id: str) -> bool:
        """Restore an experiment when it is deleted; whether it was."""
        client = self.server.client
        experiment = self.server.call(lambda: client.get_experiment(experiment_id))
        if experiment.lifecycle_stage == "active":
            return False
        self.server.call(lambda: client.restore_experiment(experiment_id))
        return True

    def delete_experiment(self, experiment_id: str) -> None:
        """Soft-delete an experiment; nothing when it is deleted already."""
        client = self.server.client
        try:
            self.server.call(lambda: client.delete_experiment(experiment_id))
        except (NotFound, InvalidInput, Conflict):
            experiment = self.server.call(lambda: client.get_experiment(experiment_id))
            if experiment.lifecycle_stage == "active":
                raise

    def rename_experiment(self, experiment_id: str, name: str) -> None:
        """Give an active experiment another name."""
        client = self.server.client
        self.server.call(lambda: client.rename_experiment(experiment_id, name))

    def tag_experiment(self, experiment_id: str, key: str, value: str) -> None:
        """Tag an experiment."""
        client = self.server.client
        self.server.call(lambda: client.set_experiment_tag(experiment_id, key, value))
