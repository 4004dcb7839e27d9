"""What the benchmarks share: the data folder, a service of their own, the machine, the JSON they write."""

import gzip
import json
import os
import platform
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tuneloop
from tuneloop.service.lifeline import Lifeline

DATA = Path(os.environ.get("TUNELOOP_BENCHMARK_DATA", Path(__file__).parents[2] / "shared" / "data"))


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The records of a gzipped JSONL file."""
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        return [json.loads(line) for line in stream]


def need(folder: str) -> Path:
    """A folder of the data, or a one-line end when it is not there."""
    path = DATA / folder
    if not path.is_dir():
        sys.exit(f"{path} is not there: set TUNELOOP_BENCHMARK_DATA to the folder that holds {folder}/")
    return path


@contextmanager
def service() -> Iterator[tuneloop.Client]:
    """A client of a service that runs on free ports over a folder of its own, and is gone afterwards."""
    ports = [_free_port(), _free_port()]
    with tempfile.TemporaryDirectory(prefix="tuneloop-benchmark-") as folder:
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("TUNELOOP_")},
            "TUNELOOP_DATA_DIR": folder,
            "TUNELOOP_PORT": str(ports[0]),
            "TUNELOOP_MLFLOW_PORT": str(ports[1]),
        }
        lifeline = Lifeline()  # a benchmark that is killed leaves no service behind
        process = subprocess.Popen(
            [sys.executable, "-m", "tuneloop.cli", "up"],
            env=lifeline.environment(environment),
            cwd=folder,
            pass_fds=(lifeline.fd,),
        )
        try:
            with tuneloop.Client(f"http://127.0.0.1:{ports[0]}", timeout=600) as client:
                _wait_until_healthy(client, process)
                yield client
        finally:
            process.terminate()
            process.wait(30)


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    import torch

    cpu = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.processor(),
    )
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "tuneloop": tuneloop.__version__,
    }


def has_bf16() -> bool:
    """Whether this machine multiplies bfloat16 matrices; where it does not, PyTorch takes hundreds of times as long."""
    import torch

    from tuneloop.search.encoder import native_bf16

    return native_bf16(torch.device("cuda" if torch.cuda.is_available() else "cpu"))


def write_json(path: Path | None, *, figures: dict[str, float], runs: list[dict[str, Any]]) -> None:
    """Write what was measured, when a path was given."""
    if path is not None:
        path.write_text(json.dumps({"figures": figures, "runs": runs, "machine": machine()}, indent=2) + "\n")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_healthy(client: tuneloop.Client, process: "subprocess.Popen[bytes]") -> None:
    for _ in range(240):
        if process.poll() is not None:
            sys.exit("the service ended while it started")
        try:
            if client.health().ok:
                return
        except Exception:  # not up yet
            pass
        time.sleep(0.5)
    sys.exit("the service did not get ready")


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []
