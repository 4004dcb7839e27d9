"""A real MLflow server, in a process of its own."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import TracebackType

import httpx
import pytest

from tuneloop.service.mlflow_server import prepare_database

START_SECONDS = 120
CODE = """
import sys
from tuneloop.service import mlflow_server
from tuneloop.settings import Settings
mlflow_server.run(Settings(_env_file=None, data_dir=sys.argv[1], mlflow_port=int(sys.argv[2])))
"""


def lay_database(data_dir: Path) -> None:
    """Give a data folder that is not there yet the database that MLflow's first start makes in seconds.

    Tests of the first start do without.
    """
    if not data_dir.exists():
        (data_dir / "mlflow").mkdir(parents=True)
        (data_dir / "mlflow" / "mlflow.sqlite").write_bytes(_new_database())


@cache
def _new_database() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mlflow.sqlite"
        prepare_database(path)
        return path.read_bytes()


def free_port() -> int:
    """A TCP port of the loopback address that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class MlflowServer:
    """Tuneloop's MLflow server over a data folder; it may be killed and started again at the same address.

    Attributes:
        url: its address, which is the tracking URI.
        data_dir: the data folder; MLflow's data lie in `data_dir/mlflow`.
    """

    def __init__(self, data_dir: Path, port: int | None = None) -> None:
        self.data_dir = data_dir
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = data_dir / "mlflow.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def artifacts(self) -> Path:
        """The folder of the artifact store."""
        return self.data_dir / "mlflow" / "artifacts"

    @property
    def pid(self) -> int:
        """The process that serves."""
        assert self._process is not None
        return self._process.pid

    def start(self, *, wait: bool = True) -> None:
        """Start it; it answers when this returns, unless `wait` is false."""
        self.data_dir.mkdir(parents=True, exist_ok=True)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", CODE, str(self.data_dir), str(self.port)],
                stdout=log,
                stderr=log,
                env=environment,
            )
        if wait:
            self._wait()

    def kill(self) -> None:
        """kill -9."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self, *, seconds: float = 30) -> int:
        """SIGTERM; the exit status."""
        assert self._process is not None
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise

    def wait_for_exit(self) -> int:
        """The exit status of a process that ends by itself."""
        assert self._process is not None
        return self._process.wait(START_SECONDS)

    def __enter__(self) -> "MlflowServer":
        self.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.stop()

    def _wait(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                break
            try:
                if httpx.get(f"{self.url}/health", timeout=5).status_code == 200:
                    return
            except httpx.HTTPError:
                time.sleep(0.1)
        raise RuntimeError(f"MLflow did not start:\n{self.log.read_text()[-4000:]}")


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """One MLflow server for the whole session. Do not kill it: others use it."""
    with MlflowServer(tmp_path_factory.mktemp("mlflow")) as server:
        yield server


@pytest.fixture(scope="session")
def mlflow_uri(mlflow_server: MlflowServer) -> str:
    """The tracking URI of the session's MLflow server."""
    return mlflow_server.url


@pytest.fixture
def own_mlflow_server(tmp_path: Path) -> Iterator[MlflowServer]:
    """An MLflow server of this test's own, to kill and to start again."""
    lay_database(tmp_path / "mlflow-data")
    with MlflowServer(tmp_path / "mlflow-data") as server:
        yield server


@pytest.fixture(scope="session")
def mlflow_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model, saved as an MLflow model of the sentence_transformers flavour."""
    import mlflow
    from sentence_transformers import SentenceTransformer

    folder = tmp_path_factory.mktemp("mlflow-model") / "model"
    model = SentenceTransformer(str(tiny_model), device="cpu")
    mlflow.sentence_transformers.save_model(model, str(folder), pip_requirements=["sentence-transformers"])
    return folder
