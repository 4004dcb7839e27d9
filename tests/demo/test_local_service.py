"""The service under the demo: found or started, and gone with the demo."""

import os
import signal
import subprocess
import sys

import psutil
import pytest

from support.service import free_ports, is_alive, wait_until
from tuneloop.client import Client
from tuneloop.demo.local_service import LocalService
from tuneloop.errors import Conflict, Unavailable
from tuneloop.settings import Settings

_HOLD = (
    "import time; from tuneloop.settings import Settings; from tuneloop.demo.local_service import LocalService\n"
    "service = LocalService(Settings()); service.start(lambda _: None); print('up', flush=True); time.sleep(600)"
)


@pytest.fixture
def settings(tmp_path, monkeypatch):
    """Settings in the environment, where the service that is started finds them."""
    port, mlflow_port = free_ports(2)
    monkeypatch.chdir(tmp_path)
    for name, value in {"DATA_DIR": tmp_path / "data", "PORT": port, "MLFLOW_PORT": mlflow_port}.items():
        monkeypatch.setenv(f"TUNELOOP_{name}", str(value))
    return Settings()


def test_it_goes_with_a_killed_demo_and_the_next_one_starts_or_uses_it(settings):
    demo = subprocess.Popen([sys.executable, "-c", _HOLD], stdout=subprocess.PIPE)
    assert demo.stdout is not None
    assert demo.stdout.readline() == b"up\n"
    family = psutil.Process(demo.pid).children(recursive=True)
    assert len(family) >= 4  # `tuneloop up` and its three parts
    os.kill(demo.pid, signal.SIGKILL)
    demo.wait()

    others = set(psutil.Process().children(recursive=True))
    with LocalService(settings) as service:  # at once, while the old one is still ending
        service.start(lambda _: None)
        assert service.is_ours
        wait_until(lambda: not any(map(is_alive, family)), what="the first service to end")
        with LocalService(settings) as second:
            second.start(lambda _: None)
            assert not second.is_ours
        with Client(service.url) as client:  # the second one left it alone
            assert client.health().ok
        own = set(psutil.Process().children(recursive=True)) - others
        assert len(own) >= 4

        elsewhere = LocalService(settings.model_copy(update={"data_dir": settings.data_dir / "other"}))
        with elsewhere, pytest.raises(Conflict, match="another data folder"):
            elsewhere.start(lambda _: None)
    assert not any(map(is_alive, own))


def test_a_service_that_cannot_start_says_why(settings, monkeypatch):
    monkeypatch.setenv("TUNELOOP_HOST", "0.0.0.0")
    with LocalService(settings) as service, pytest.raises(Unavailable, match="TUNELOOP_API_KEYS"):
        service.start(lambda _: None)
