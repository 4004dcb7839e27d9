import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from support.service import Service, free_ports, is_alive, wait_until
from tuneloop.service import ports

PARTS = {"api", "mlflow", "worker"}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service whose parts tests may kill; each leaves it well."""
    service = Service(tmp_path_factory.mktemp("up"))
    try:
        yield service.start()
    finally:
        service.close()


def store_session(service: Service, session_id: str) -> None:
    body = {"session_id": session_id, "search_query": "red shoes", "search_results": [{"object_id": "a"}]}
    assert service.http.post("/api/v1/clickstream/session", json=body).status_code == 200


def has_session(service: Service, session_id: str) -> bool:
    answer = service.http.get("/api/v1/clickstream/session", params={"session_id": session_id})
    return answer.status_code == 200


def command(service: Service, name: str, **settings: object) -> subprocess.CompletedProcess[str]:
    """Run `tuneloop {name}` with the settings of `service`, changed by `settings`, until it ends."""
    changed = {f"TUNELOOP_{key.upper()}": str(value) for key, value in settings.items()}
    return subprocess.run(
        [sys.executable, "-m", "tuneloop.cli", name],
        cwd=service.folder,
        env={**service.environment, **changed},
        capture_output=True,
        text=True,
        timeout=120,
    )


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    """What a command that could not start said."""
    assert done.returncode == 2, done
    (line,) = done.stderr.splitlines()
    return line


def test_all_parts_run_and_answer(running: Service) -> None:
    assert set(running.pids()) == PARTS
    assert running.http.get("/api/v1/ping").status_code == 200
    assert ports.get("127.0.0.1", running.settings["mlflow_port"], "/health") is not None
    wait_until(lambda: running.url.replace("127.0.0.1", "localhost") in running.output, what="the links")
    assert running.mlflow_url.replace("127.0.0.1", "localhost") in running.output
    assert {part.stem for part in running.data_dir.glob("logs/*.log")} == PARTS


@pytest.mark.parametrize("part", sorted(PARTS))
def test_a_part_that_is_killed_is_started_again(running: Service, part: str) -> None:
    store_session(running, f"before-{part}")
    before = running.pids()
    running.kill_part(part)
    running.wait_ready()
    wait_until(lambda: "all parts are up again" in running.output, what="the good news")
    after = running.pids()
    assert {name: pid for name, pid in after.items() if name != part} == {
        name: pid for name, pid in before.items() if name != part
    }
    assert f"{part} ended (SIGKILL)" in running.output
    assert has_session(running, f"before-{part}")


def test_a_second_service_on_the_same_folder_is_refused(running: Service) -> None:
    port, mlflow_port = free_ports(2)
    line = one_line(command(running, "up", port=port, mlflow_port=mlflow_port))
    assert "another `tuneloop up`" in line
    assert "TUNELOOP_DATA_DIR" in line
    assert running.is_healthy()


def test_taken_ports_are_named(running: Service, tmp_path: Path) -> None:
    port = running.settings["port"]
    line = one_line(command(running, "up", data_dir=tmp_path / "other"))
    assert f"port {port} is taken" in line
    assert "TUNELOOP_PORT" in line
    line = one_line(command(running, "up", data_dir=tmp_path / "other", port=free_ports(1)[0]))
    assert f"port {running.settings['mlflow_port']} is taken" in line
    assert "TUNELOOP_MLFLOW_PORT" in line
    assert "TUNELOOP_PORT" in one_line(command(running, "api"))
    assert "TUNELOOP_MLFLOW_PORT" in one_line(command(running, "mlflow"))


@pytest.mark.parametrize("name", ["up", "api", "worker", "mlflow"])
def test_a_data_folder_that_cannot_be_written_is_named(make_service: Callable[..., Service], name: str) -> None:
    service = make_service()
    blocker = service.folder / "file"
    blocker.write_text("in the way")
    line = one_line(command(service, name, data_dir=blocker))
    assert str(blocker) in line
    assert "TUNELOOP_DATA_DIR" in line


@pytest.mark.parametrize("name", ["up", "api"])
def test_no_keys_no_open_address(make_service: Callable[..., Service], name: str) -> None:
    service = make_service()
    assert "TUNELOOP_API_KEYS" in one_line(command(service, name, host="0.0.0.0"))
    assert not service.data_dir.exists()


def test_nothing_outlives_a_killed_part_a_killed_top_or_ctrl_c(
    make_service: Callable[..., Service], tmp_path: Path
) -> None:
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    # API and worker import it: each starts a child, and a grandchild that left the group and lost its parent.
    commands = (["sleep", f"2001.{os.getpid()}"], ["sleep", f"2002.{os.getpid()}"])
    (plugins / "starts_processes.py").write_text(
        "import subprocess\n"
        f"subprocess.Popen({commands[0]})\n"
        f"subprocess.Popen(['sh', '-c', '{' '.join(commands[1])} & exit'], start_new_session=True).wait()\n"
    )

    def started() -> list[psutil.Process]:
        """Those of both parts, once all are there."""
        found = [each for each in psutil.process_iter(["cmdline"]) if each.info["cmdline"] in commands]
        return found if len(found) == 4 else []

    service = make_service(plugins=plugins).start()
    store_session(service, "kept")
    first = wait_until(started, what="the plugin's processes")
    psutil.Process(service.pids()["worker"]).kill()
    wait_until(lambda: sum(map(is_alive, first)) == 2, what="the killed worker's processes to end")
    family = [*service.family(), *wait_until(started, what="those of the next worker")]
    assert len(family) > len(PARTS)

    assert service.process is not None
    service.process.kill()
    service.process.wait()
    service.start(wait=False)  # at once: it waits for the old parts itself
    wait_until(lambda: not any(map(is_alive, family)), what="the old parts to end")
    service.wait_ready()
    assert has_session(service, "kept")
    others = wait_until(started, what="the plugin's processes")

    assert service.stop(signal.SIGINT) == 0  # within 10 s
    assert not any(map(is_alive, others))
    ports.check("127.0.0.1", service.settings["port"], "TUNELOOP_PORT")
    ports.check("127.0.0.1", service.settings["mlflow_port"], "TUNELOOP_MLFLOW_PORT")


def test_a_part_that_can_never_start_ends_the_service(make_service: Callable[..., Service]) -> None:
    service = make_service().start()
    # Another program takes the API's port while the API is down.
    psutil.Process(service.pids()["api"]).kill()
    other = wait_until(lambda: _take(service.settings["port"]), what="the port to be free")
    try:
        assert service.process is not None
        assert service.process.wait(120) == 1
    finally:
        other.close()
    assert "api cannot start" in service.output
    assert f"port {service.settings['port']} is taken" in service.output


def _take(port: int) -> socket.socket | None:
    try:
        return socket.create_server(("127.0.0.1", port))
    except OSError:
        return None
