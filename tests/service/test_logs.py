import json
import subprocess
import sys
from pathlib import Path

from tuneloop.service import logs


def test_rotation_keeps_the_last_logs(tmp_path: Path):
    log = tmp_path / "api.log"
    for number in range(6):
        logs.rotate(log)
        log.write_text(str(number))
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {
        "api.log": "5",
        "api.log.1": "4",
        "api.log.2": "3",
        "api.log.3": "2",
    }


def test_a_log_is_cut_under_its_writer(tmp_path: Path):
    log = tmp_path / "api.log"
    with log.open("ab", buffering=0) as writer:
        writer.write(b"x" * 2000)
        logs.bound(log, max_bytes=1000)
        writer.write(b"new\n")
        logs.bound(log, max_bytes=1000)
    assert log.read_bytes() == b"new\n"
    assert (tmp_path / "api.log.1").read_bytes() == b"x" * 2000


def test_tail_of_a_log(tmp_path: Path):
    log = tmp_path / "api.log"
    assert logs.tail(log, 3) == []
    log.write_bytes(b"one\n\ntwo\n\xff\nlast")
    assert logs.tail(log, 3) == ["two", "\ufffd", "last"]


def test_events_are_json_lines_whoever_logs():
    script = """
import logging, warnings, structlog
from tuneloop.service import logs
logs.configure("info")
structlog.get_logger("tuneloop.x").info("task begins", task_id="t1")
structlog.get_logger("tuneloop.x").debug("unseen")
logging.getLogger("uvicorn").warning("plain %s", "words")
warnings.warn("careful")
try:
    1 / 0
except ZeroDivisionError:
    structlog.get_logger("tuneloop.x").exception("went wrong")
"""
    done = subprocess.run([sys.executable, "-c", script], stderr=subprocess.PIPE, check=True)
    events = [json.loads(line) for line in done.stderr.splitlines()]
    first, plain, warning, wrong = events
    assert (first["event"], first["task_id"], first["level"], first["logger"]) == (
        "task begins",
        "t1",
        "info",
        "tuneloop.x",
    )
    assert first["timestamp"].endswith("Z")
    assert (plain["event"], plain["level"], plain["logger"]) == ("plain words", "warning", "uvicorn")
    assert "careful" in warning["event"]
    assert "ZeroDivisionError" in wrong["exception"]
