"""MLflow's server, in one process that can be killed."""

import socket
import sqlite3
from pathlib import Path

import httpx
import mlflow
import psutil
import sqlalchemy as sa

from support.mlflow import MlflowServer, free_port
from tuneloop.service.mlflow_server import prepare_database


def test_it_is_one_process_on_loopback_that_stops_cleanly_and_survives_a_kill(tmp_path: Path) -> None:
    server = MlflowServer(tmp_path / "data")
    server.start()
    assert psutil.Process(server.pid).children(recursive=True) == []
    listening = [each.laddr for each in psutil.Process(server.pid).net_connections() if each.status == "LISTEN"]
    assert [(each.ip, each.port) for each in listening] == [("127.0.0.1", server.port)]
    client = mlflow.MlflowClient(server.url)
    experiment = client.create_experiment("mine")
    run = client.create_run(experiment)
    (tmp_path / "note.txt").write_text("hello")
    client.log_artifact(run.info.run_id, str(tmp_path / "note.txt"))
    assert [path.name for path in server.artifacts.rglob("*.txt")] == ["note.txt"]
    assert "MLflow" in httpx.get(server.url).text

    other = MlflowServer(tmp_path / "other", server.port)
    other.start(wait=False)
    assert other.wait_for_exit() == 1
    said = [line for line in other.log.read_text().splitlines() if line.strip()]
    assert len(said) == 1 and str(server.port) in said[0]

    server.kill()
    server.start()
    assert client.get_experiment_by_name("mine").experiment_id == experiment
    assert client.get_run(run.info.run_id).info.status == "RUNNING"
    assert server.stop() == 0
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", server.port))


def test_a_folder_that_cannot_be_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mlflow").write_text("a file in the way")
    server = MlflowServer(tmp_path / "data", free_port())
    server.start(wait=False)
    assert server.wait_for_exit() == 1
    said = [line for line in server.log.read_text().splitlines() if line.strip()]
    assert len(said) == 1 and str(tmp_path / "data" / "mlflow") in said[0]


def test_a_database_half_made_by_a_killed_process_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.sqlite"
    for draft in ("mlflow.draft", "mlflow.draft-journal"):
        (tmp_path / draft).write_bytes(b"half a database")
    prepare_database(path)
    assert not (tmp_path / "mlflow.draft").exists()
    tables = sqlite3.connect(path).execute("SELECT count(*) FROM sqlite_master WHERE type = 'table'").fetchone()
    assert tables[0] > 10
    stamp = path.stat().st_mtime_ns
    prepare_database(path)
    assert path.stat().st_mtime_ns == stamp


def test_an_older_database_is_brought_up_with_what_it_holds(tmp_path: Path) -> None:
    from alembic import command
    from alembic.script import ScriptDirectory
    from mlflow.store.db.utils import _get_alembic_config
    from mlflow.store.tracking.dbmodels.initial_models import Base

    path = tmp_path / "mlflow.sqlite"
    url = f"sqlite:///{path}"
    engine = sa.create_engine(url)
    Base.metadata.create_all(engine)
    config = _get_alembic_config(url)
    scripts = ScriptDirectory.from_config(config)
    head = scripts.get_current_head()
    before = scripts.get_revision(head).down_revision
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, before)
        connection.execute(sa.text("INSERT INTO experiments (name, lifecycle_stage) VALUES ('mine', 'active')"))
    engine.dispose()
    prepare_database(path)
    with engine.connect() as connection:
        assert connection.scalar(sa.text("SELECT version_num FROM alembic_version")) == head
        assert connection.scalar(sa.text("SELECT count(*) FROM experiments WHERE name = 'mine'")) == 1
    engine.dispose()
