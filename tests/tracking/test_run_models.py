"""The models of runs, in a real MLflow with its artifacts on disk."""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import httpx
import mlflow
import pytest

from support.mlflow import MlflowServer
from tuneloop.errors import NotFound
from tuneloop.tracking import Tracking

WEIGHTS = "model.sentence_transformer/model.safetensors"


@pytest.fixture
def run_id(tracking: Tracking, method: str, batch: Callable[[], str]) -> str:
    return tracking.create_run(tracking.open_iteration(method, batch()), name="run", params={}, tags={})


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_model_comes_back_byte_for_byte(tracking: Tracking, run_id: str, mlflow_model: Path, tmp_path: Path) -> None:
    assert not tracking.has_model(run_id)
    with pytest.raises(NotFound, match="no stored model"):
        tracking.download_model(run_id, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
    tracking.store_model(run_id, mlflow_model)
    tracking.store_model(run_id, mlflow_model)
    assert tracking.has_model(run_id)
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "stale").touch()
    assert digests(tracking.download_model(run_id, tmp_path / "copy")) == digests(mlflow_model)
    files = {file.path: file.size for file in tracking.list_model_files(run_id)}
    assert files == {path: (mlflow_model / path).stat().st_size for path in digests(mlflow_model)}
    assert b"".join(tracking.open_model_file(run_id, WEIGHTS)) == (mlflow_model / WEIGHTS).read_bytes()
    for path in ("nothing", "../model/MLmodel", "/etc/passwd", "model.sentence_transformer"):
        with pytest.raises(NotFound):
            tracking.open_model_file(run_id, path)


def test_a_model_is_stored_once_and_loads_in_a_plain_client(
    tracking: Tracking, mlflow_server: MlflowServer, run_id: str, mlflow_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracking.store_model(run_id, mlflow_model)
    client = mlflow.MlflowClient(mlflow_server.url)
    name = f"shop-{run_id}"
    client.create_registered_model(name)
    client.create_model_version(name, f"runs:/{run_id}/model", run_id)
    weights = hashlib.sha256((mlflow_model / WEIGHTS).read_bytes()).hexdigest()
    copies = [p for p in mlflow_server.artifacts.rglob(f"{run_id}/**/*") if p.is_file() and digest(p) == weights]
    assert len(copies) == 1
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server.url)
    model = mlflow.sentence_transformers.load_model(f"models:/{name}/1")
    assert model.encode(["item1"]).shape == (1, 32)
    answer = httpx.get(f"{mlflow_server.url}/get-artifact", params={"path": f"model/{WEIGHTS}", "run_uuid": run_id})
    assert answer.status_code == 200 and hashlib.sha256(answer.content).hexdigest() == weights


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_bytes_of_a_deleted_model_are_gone(
    tracking: Tracking, mlflow_server: MlflowServer, run_id: str, mlflow_model: Path
) -> None:
    tracking.store_model(run_id, mlflow_model)
    (folder,) = mlflow_server.artifacts.rglob(f"{run_id}/artifacts/model")
    assert tracking.delete_model(run_id)
    assert not folder.exists()
    assert not tracking.has_model(run_id)
    assert tracking.list_model_files(run_id) == []
    assert not {"tuneloop.model", "tuneloop.removing", "mlflow.log-model.history"} & set(tracking.get_run(run_id).tags)
    assert tracking.delete_model(run_id)
    tracking.store_model(run_id, mlflow_model)
    assert tracking.has_model(run_id)


def test_a_half_stored_model_is_none_and_goes_too(
    tracking: Tracking, mlflow_server: MlflowServer, run_id: str, mlflow_model: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(mlflow_model, broken)
    (broken / "a-shard-of-another-model").write_bytes(b"x")
    tracking.set_tags(run_id, {"tuneloop.model": "storing"})
    tracking.artifacts.upload(run_id, broken)
    assert not tracking.has_model(run_id)
    tracking.store_model(run_id, mlflow_model)
    assert {file.path for file in tracking.list_model_files(run_id)} == set(digests(mlflow_model))
    tracking.set_tags(run_id, {"tuneloop.model": "storing"})
    assert not tracking.has_model(run_id)
    assert tracking.delete_model(run_id)
    assert tracking.list_model_files(run_id) == []


def test_a_report_lies_beside_the_model_and_goes_with_it(
    tracking: Tracking, mlflow_server: MlflowServer, run_id: str, mlflow_model: Path, tmp_path: Path
) -> None:
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "page.html").write_text("<p>better</p>")
    tracking.store_model(run_id, mlflow_model, report=tmp_path / "report")
    address = {"path": "report/page.html", "run_uuid": run_id}
    assert httpx.get(f"{mlflow_server.url}/get-artifact", params=address).text == "<p>better</p>"
    assert {file.path for file in tracking.list_model_files(run_id)} == set(digests(mlflow_model))
    assert tracking.delete_model(run_id)
    assert not list(mlflow_server.artifacts.rglob(f"{run_id}/artifacts/*"))


def test_a_report_of_a_half_stored_model_goes_too(
    tracking: Tracking, mlflow_server: MlflowServer, run_id: str, mlflow_model: Path, tmp_path: Path
) -> None:
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "page.html").write_text("<p>better</p>")
    tracking.set_tags(run_id, {"tuneloop.model": "storing"})
    tracking.artifacts.upload(run_id, tmp_path / "report", into="report")  # killed here
    assert tracking.delete_model(run_id)
    assert not list(mlflow_server.artifacts.rglob(f"{run_id}/artifacts/*"))


@pytest.mark.parametrize("source", ["runs", "artifacts", "copy", "run_id"])
def test_a_registered_model_stays(tracking: Tracking, run_id: str, mlflow_model: Path, source: str) -> None:
    tracking.store_model(run_id, mlflow_model)
    client = mlflow.MlflowClient(tracking.server.uri)
    name = f"shop-{run_id}"
    client.create_registered_model(name)
    if source == "artifacts":
        client.create_model_version(name, f"{tracking.get_run(run_id).artifact_uri}/model", run_id)
    elif source == "run_id":  # from somewhere else, but said to be this run's
        client.create_model_version(name, "s3://somewhere/else", run_id)
    else:
        client.create_model_version(name, f"runs:/{run_id}/model", run_id)
    if source == "copy":
        client.copy_model_version(f"models:/{name}/1", f"{name}-copy")
        client.delete_registered_model(name)
        name = f"{name}-copy"
    assert not tracking.delete_model(run_id)
    assert tracking.has_model(run_id)
    assert "tuneloop.removing" not in tracking.get_run(run_id).tags
    client.delete_registered_model(name)
    assert tracking.delete_model(run_id)


def test_a_removal_that_was_interrupted_is_finished(tracking: Tracking, run_id: str, mlflow_model: Path) -> None:
    tracking.store_model(run_id, mlflow_model)
    tracking.set_tags(run_id, {"tuneloop.removing": "true"})
    assert not tracking.has_model(run_id)
    tracking.artifacts.delete(run_id)
    assert tracking.delete_model(run_id)
    assert "tuneloop.removing" not in tracking.get_run(run_id).tags


def test_the_model_of_a_run_that_somebody_deleted_can_be_removed(
    tracking: Tracking, mlflow_server: MlflowServer, run_id: str, mlflow_model: Path
) -> None:
    tracking.store_model(run_id, mlflow_model)
    mlflow.MlflowClient(tracking.server.uri).delete_run(run_id)
    assert not tracking.has_model(run_id)
    with pytest.raises(NotFound, match="deleted"):
        tracking.store_model(run_id, mlflow_model)
    assert tracking.delete_model(run_id)
    assert not list(mlflow_server.artifacts.rglob(f"{run_id}/artifacts/model"))
