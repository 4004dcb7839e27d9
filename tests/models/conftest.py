"""A registry over the session's MLflow and a database of its own, and runs to register."""

import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tuneloop.database import Database
from tuneloop.models.registry import ModelRegistry
from tuneloop.tracking import Tracking

StoreRun = Callable[..., str]


@pytest.fixture
def stored_database(tmp_path: Path) -> Iterator[Database]:
    """A database in SQLite; what depends on the kind of database is tested in test_store.py."""
    database = Database(f"sqlite:///{tmp_path}/tuneloop.sqlite")
    database.migrate()
    yield database
    database.dispose()


@pytest.fixture
def tracking(mlflow_uri: str) -> Tracking:
    return Tracking(mlflow_uri, retry_seconds=20)


@pytest.fixture
def registry(mlflow_uri: str, stored_database: Database) -> ModelRegistry:
    return ModelRegistry(mlflow_uri, stored_database)


@pytest.fixture
def name() -> str:
    """A name that tries what MLflow allows."""
    return 'it\'s "the" 100% shop_v1 / '.replace(" / ", " ") + secrets.token_hex(6)


@pytest.fixture
def store_run(registry: ModelRegistry) -> StoreRun:
    """Do what an iteration does: a run with its model, recorded and stored; the run's id."""

    def do(folder: Path, *, record: bool = True, **metrics: float) -> str:
        from mlflow.entities import Metric

        tracking = registry.tracking
        experiment = tracking.open_iteration("method", "b1")
        tags = {"tuneloop.task_id": "t1", "tuneloop.method": "method"}
        run_id = tracking.create_run(experiment, name="run 1", params={}, tags=tags)
        tracking.log_metrics(run_id, [Metric(key, value, 0, 0) for key, value in metrics.items()])
        if record:
            registry.stored.record(run_id, folder)
        tracking.store_model(run_id, folder)
        tracking.end_run(run_id, "FINISHED")
        return run_id

    return do
