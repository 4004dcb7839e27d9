"""A running API: a real uvicorn on a free port, in a thread of the test process."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn

from tuneloop.api.app import create_app
from tuneloop.settings import Settings

# Nothing listens there, so whoever asks MLflow is refused at once.
NO_MLFLOW = "http://127.0.0.1:9"


def settings_for(folder: Path, **more: Any) -> Settings:
    return Settings(
        _env_file=None, data_dir=folder, **{"mlflow_tracking_uri": NO_MLFLOW, "mlflow_retry_seconds": 0.2, **more}
    )


@contextmanager
def running(settings: Settings) -> Iterator[str]:
    """The address of an API with these settings."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(create_app(settings), log_config=None, access_log=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the API did not start"
        time.sleep(0.01)
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join(timeout=20)
    listener.close()
