"""Registering, looking up and aliasing in a real MLflow."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mlflow
import pytest

from tuneloop.database import Database
from tuneloop.errors import Conflict, InvalidInput, NotFound
from tuneloop.models.registry import ModelRegistry

StoreRun = Callable[..., str]


@pytest.fixture(scope="module")
def model(mlflow_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of few files, quickly stored."""
    folder = tmp_path_factory.mktemp("small") / "model"
    folder.mkdir()
    (folder / "MLmodel").write_bytes((mlflow_model / "MLmodel").read_bytes())
    return folder


@pytest.fixture
def client(mlflow_uri: str) -> mlflow.MlflowClient:
    return mlflow.MlflowClient(mlflow_uri)


def test_versions_count_up_and_say_where_they_come_from(
    registry: ModelRegistry, store_run: StoreRun, name: str, model: Path
) -> None:
    first, second = store_run(model, test_mrr=0.5), store_run(model, test_mrr=0.75)
    assert registry.register(name, run_id=first).version == "1"
    version = registry.register(name, run_id=second, description="the better one")
    assert (version.name, version.version, version.run_id) == (name, "2", second)
    registry.set_alias(name, "champion", 2)
    shown = registry.model(name)
    assert (shown.name, [each.version for each in shown.versions]) == (name, ["2", "1"])
    newest = shown.versions[0]
    assert (newest.description, newest.metrics, newest.aliases) == ("the better one", {"test_mrr": 0.75}, ("champion",))
    assert (newest.task_id, newest.method, newest.created_at > 0) == ("t1", "method", True)
    assert dict(shown.aliases) == {"champion": "2"}
    (listed,) = [each for each in registry.models() if each.name == name]
    assert listed == shown


def test_versions_are_found_by_number_latest_and_alias(
    registry: ModelRegistry, store_run: StoreRun, name: str, model: Path, client: mlflow.MlflowClient
) -> None:
    runs = [store_run(model) for _ in range(3)]
    for run_id in runs:
        registry.register(name, run_id=run_id)
    registry.set_alias(name, "champion", "1")
    assert registry.resolve(name, "2").run_id == runs[1]
    assert registry.resolve(name, "latest").run_id == runs[2]
    assert registry.resolve(name, "@champion").run_id == runs[0]
    assert registry.set_alias(name, "champion", "latest").version == "3"
    assert registry.resolve(name, "@champion").run_id == runs[2]
    assert registry.set_alias(name, "champion", 1).aliases == ("champion",)  # the rollback
    assert registry.resolve(name, "@champion").run_id == runs[0]
    client.delete_model_version(name, "3")
    assert registry.resolve(name, "latest").run_id == runs[1]
    for version in ("3", "4", "0", "-1", "01", "1.0", "", "@", "@nobody", "@a b", "Latest", "9" * 30, "١", "1 or 1=1"):
        with pytest.raises(NotFound):
            registry.resolve(name, version)
        if not version.startswith("@"):
            with pytest.raises(NotFound):
                registry.set_alias(name, "champion", version)


def test_what_does_not_exist_is_not_found(registry: ModelRegistry, name: str) -> None:
    for unknown in (name, "", "a/b", "a:b", "..", "x' OR '1'='1", "\x00"):
        with pytest.raises(NotFound):
            registry.model(unknown)
        for version in ("1", "latest", "@champion"):
            with pytest.raises(NotFound):
                registry.resolve(unknown, version)
    with pytest.raises(NotFound, match="knows no run"):
        registry.register(name, run_id="0" * 32)
    assert name not in [model.name for model in registry.models()]


@pytest.mark.parametrize(
    "bad", ["", " ", "a/b", "a:b", "x" * 251, "a\nb", "a\0b", "a\x7fb", "\ud800", " a", "a ", ".", ".."]
)
def test_names_that_are_not_possible_are_refused(
    registry: ModelRegistry, store_run: StoreRun, model: Path, bad: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        registry.register(bad, run_id="0" * 32)
    assert caught.value.field == "name"


def test_long_and_strange_names_are_possible(
    registry: ModelRegistry, store_run: StoreRun, name: str, model: Path
) -> None:
    run_id = store_run(model)
    for possible in (name + "x" * (250 - len(name)), f"日本語 {name}", f"-- {name}", f"{name} \\"):
        assert registry.register(possible, run_id=run_id).version == "1"
        assert registry.resolve(possible, "latest").run_id == run_id
        assert registry.model(possible).name == possible


@pytest.mark.parametrize("alias", ["", "latest", "LATEST", "v1", "V22", "a b", "a/b", "x" * 256, "é", "@a", "a\n"])
def test_aliases_that_are_not_possible_are_refused(
    registry: ModelRegistry, store_run: StoreRun, name: str, model: Path, alias: str
) -> None:
    registry.register(name, run_id=store_run(model))
    with pytest.raises(InvalidInput) as caught:
        registry.set_alias(name, alias, 1)
    assert caught.value.field == "alias"


def test_only_a_run_with_a_whole_model_is_registered(
    registry: ModelRegistry, store_run: StoreRun, name: str, model: Path, client: mlflow.MlflowClient
) -> None:
    tracking = registry.tracking
    empty = tracking.create_run(tracking.open_iteration("method", "b1"), name="run", params={}, tags={})
    with pytest.raises(Conflict, match="no stored model"):
        registry.register(name, run_id=empty)
    going = store_run(model)
    tracking.set_tags(going, {"tuneloop.removing": "true"})
    with pytest.raises(Conflict, match="being removed"):
        registry.register(name, run_id=going)
    gone = store_run(model)
    tracking.artifacts.delete(gone)
    with pytest.raises(Conflict, match="no stored model"):
        registry.register(name, run_id=gone)
    deleted = store_run(model)
    client.delete_run(deleted)
    with pytest.raises(NotFound, match="deleted"):
        registry.register(name, run_id=deleted)
    assert name not in [each.name for each in registry.models()]


def test_a_repeated_request_gives_the_same_version(
    registry: ModelRegistry, store_run: StoreRun, name: str, model: Path
) -> None:
    run_id = store_run(model)
    first = registry.register(name, run_id=run_id, request_id="r'1\"")
    assert registry.register(name, run_id=run_id, request_id="r'1\"") == first
    assert registry.register(name, run_id=run_id, request_id="r2").version == "2"
    assert registry.register(name, run_id=run_id).version == "3"
    with pytest.raises(Conflict, match="already registered"):
        registry.register(name, run_id=store_run(model), request_id="r2")


def test_identical_requests_at_once_make_one_version(
    mlflow_uri: str, stored_database: Database, registry: ModelRegistry, store_run: StoreRun, name: str, model: Path
) -> None:
    """From several processes, as it were: each request has a registry of its own."""
    run_id = store_run(model)

    def register(_: int) -> str:
        return ModelRegistry(mlflow_uri, stored_database).register(name, run_id=run_id, request_id="same").version

    with ThreadPoolExecutor(8) as pool:
        versions = set(pool.map(register, range(16)))
    assert [each.version for each in registry.model(name).versions] == list(versions)


def test_different_first_registrations_at_once_all_succeed(
    mlflow_uri: str, stored_database: Database, registry: ModelRegistry, store_run: StoreRun, name: str, model: Path
) -> None:
    run_id = store_run(model)

    def register(_: int) -> str:
        return ModelRegistry(mlflow_uri, stored_database).register(name, run_id=run_id).version

    with ThreadPoolExecutor(4) as pool:
        versions = sorted(pool.map(register, range(4)))
    assert versions == ["1", "2", "3", "4"]


def test_registration_and_removal_at_once_leave_a_loadable_version_or_none(
    mlflow_uri: str, stored_database: Database, registry: ModelRegistry, store_run: StoreRun, name: str, model: Path
) -> None:
    for attempt in range(6):
        run_id = store_run(model)

        def register(run_id: str = run_id, attempt: int = attempt) -> None:
            ModelRegistry(mlflow_uri, stored_database).register(f"{name} {attempt}", run_id=run_id)

        with ThreadPoolExecutor(2) as pool:
            registered = pool.submit(register)
            removed = pool.submit(registry.tracking.delete_model, run_id)
            kept = not removed.result()
            succeeded = registered.exception() is None
        if not succeeded:
            assert isinstance(registered.exception(), Conflict)
        assert registry.tracking.has_model(run_id) or not succeeded
        assert not kept or registry.tracking.has_model(run_id)
        versions = [each for each in registry.models() if each.name == f"{name} {attempt}" and each.versions]
        assert bool(versions) == succeeded
