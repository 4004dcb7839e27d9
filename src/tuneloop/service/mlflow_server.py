"""The MLflow server that Tuneloop starts for itself: one process, SQLite and a local folder, loopback only.

`mlflow server` runs its HTTP server, and the runners of its background jobs, as children that outlive it when it is
killed. This module does in this process what that command does: it sets the variables that MLflow's application
reads, prepares the database, and serves the application with uvicorn.
"""

import os
import signal
import socket
import sqlite3
import warnings
from contextlib import closing
from pathlib import Path
from types import FrameType
from typing import Any

from tuneloop.errors import TuneloopError
from tuneloop.service import ports
from tuneloop.settings import Settings

HOST = "127.0.0.1"
# What a request may still take once the server was asked to stop, in seconds.
GRACE_SECONDS = 3
# Clients store files through the server, which keeps them in its folder.
ARTIFACT_ROOT = "mlflow-artifacts:/"


def run(settings: Settings) -> None:
    """Serve MLflow on `settings.mlflow_port` until SIGTERM or SIGINT; its data lie in `data_dir/mlflow`.

    Raises:
        SystemExit: 0 after a signal; a one-line message when the port is taken or the folder cannot be written.
    """
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)
    folder = settings.data_dir.absolute() / "mlflow"
    try:
        listener = ports.bind(HOST, settings.mlflow_port, "TUNELOOP_MLFLOW_PORT")
        (folder / "artifacts").mkdir(parents=True, exist_ok=True)
        _quiet_environment()
        prepare_database(folder / "mlflow.sqlite")
    except TuneloopError as error:
        raise SystemExit(f"tuneloop: {error.detail}") from None
    except OSError as error:
        raise SystemExit(f"tuneloop: cannot keep MLflow's data in {folder}: {error.strerror or error}") from None
    _serve(_load_app(folder), listener, settings.log_level)


def prepare_database(path: Path) -> None:
    """Create MLflow's SQLite database at `path`, or bring an older one to this version of MLflow.

    MLflow's migrations are no transaction: a process killed in the middle of them leaves a database that no later
    start can use. So they run on a copy, which takes the place of the database once it is complete.
    """
    if path.exists() and _is_current(path):
        return
    draft = path.with_suffix(".draft")
    for leftover in (draft, *_journals(draft)):
        leftover.unlink(missing_ok=True)
    if path.exists():
        with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(draft)) as target:
            source.backup(target)
    _migrate(draft)
    with closing(sqlite3.connect(draft)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")  # readers and the writer do not wait for each other
    for leftover in _journals(path):  # what they held is in the copy
        leftover.unlink(missing_ok=True)
    draft.replace(path)


def _migrate(path: Path) -> None:
    from mlflow.store.db import utils

    store: Any = utils  # MLflow's functions have no types
    engine = store.create_sqlalchemy_engine(f"sqlite:///{path}")
    try:
        if store._is_empty_database(engine):
            store._initialize_tables(engine)
        else:
            store._upgrade_db(engine)
    finally:
        engine.dispose()


def _is_current(path: Path) -> bool:
    from mlflow.store.db import utils

    store: Any = utils
    engine = store.create_sqlalchemy_engine(f"sqlite:///{path}")
    try:
        return bool(store._get_schema_version(engine) == store._get_latest_schema_revision())
    finally:
        engine.dispose()


def _journals(path: Path) -> list[Path]:
    return [path.with_name(f"{path.name}{suffix}") for suffix in ("-journal", "-wal", "-shm")]


def _quiet_environment() -> None:
    """Nothing runs in the background and nothing calls home."""
    os.environ.update(
        MLFLOW_DISABLE_TELEMETRY="true",
        DO_NOT_TRACK="true",
        MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false",
    )
    # Where clients track to is not where the server stores.
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "MLFLOW_ENABLE_WORKSPACES"):
        os.environ.pop(name, None)


def _load_app(folder: Path) -> Any:
    """MLflow's ASGI application; `mlflow server` tells it by these variables, too, before it is imported."""
    store = f"sqlite:///{folder / 'mlflow.sqlite'}"
    os.environ.update(
        _MLFLOW_SERVER_FILE_STORE=store,
        _MLFLOW_SERVER_REGISTRY_STORE=store,
        _MLFLOW_SERVER_ARTIFACT_ROOT=ARTIFACT_ROOT,
        _MLFLOW_SERVER_ARTIFACT_DESTINATION=str(folder / "artifacts"),
        _MLFLOW_SERVER_SERVE_ARTIFACTS="true",
        _MLFLOW_SERVER_BOOT_ID=os.urandom(16).hex(),
        _MLFLOW_SGI_NAME="uvicorn",
        _MLFLOW_IN_JOB_EXECUTOR="false",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow's own use of what is deprecated is not for our users to mend
        from mlflow.server.fastapi_app import app
    from mlflow.server.handlers import initialize_backend_stores

    initialize_backend_stores(store, store, ARTIFACT_ROOT)
    return app


def _serve(app: Any, listener: socket.socket, log_level: str) -> None:
    import uvicorn

    config = uvicorn.Config(
        app,
        log_config=None,
        log_level="info" if log_level == "debug" else "warning",
        access_log=log_level == "debug",
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    uvicorn.Server(config).run(sockets=[listener])  # ends, and hands the signal on to `_stop`


def _stop(_signal: int, _frame: FrameType | None) -> None:
    raise SystemExit(0)
