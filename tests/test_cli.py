"""The commands, as a person or a script types them."""

import gzip
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import structlog
import typer.main
from rich.console import Console
from typer.testing import CliRunner, Result

from support import probe_method
from support.api import running, settings_for
from support.service import free_ports, wait_until
from support.tables import write_shop
from tuneloop.cli import app
from tuneloop.client import Client, Progress, Task
from tuneloop.relational import Dataset
from tuneloop.service.live import TaskView, TimeLeft, fraction_done

Run = Callable[..., Result]


@pytest.fixture(autouse=True)
def clean_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No `.env` of the repository, no variables of whoever runs the tests, and a terminal wide enough."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("TUNELOOP_")]:
        monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def no_log() -> Iterator[None]:
    """The API runs in this process, and its log would stand among what a command prints."""
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory(), cache_logger_on_first_use=False)
    yield
    structlog.reset_defaults()


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    with running(settings_for(tmp_path / "data")) as url, Client(url) as made:
        yield made


@pytest.fixture
def run(client: Client) -> Run:
    """Runs a command against the API; an expected exit status may be given."""

    def invoke(*arguments: str, status: int = 0, **options: object) -> Result:
        result = CliRunner(env={"TUNELOOP_URL": client.url}).invoke(app, list(arguments), **options)
        assert result.exit_code == status, (result.output, result.exception)
        assert "Traceback" not in result.output
        return result

    return invoke


def tuneloop(*arguments: str, **options: object) -> "subprocess.CompletedProcess[str]":
    """Runs a command as a process of its own."""
    command = [sys.executable, "-m", "tuneloop.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **options)


def sessions(count: int, **more: object) -> list[dict[str, object]]:
    shown = [{"object_id": "a", "rank": 0.9}, {"object_id": "b", "rank": 0.4}]
    events = [{"event_id": "e", "object_id": "b"}]
    return [
        {"session_id": f"s{n}", "search_query": f"red {n}", "search_results": shown, "events": events, **more}
        for n in range(count)
    ]


def jsonl(path: Path, records: list[object]) -> str:
    path.write_text("\n".join(record if isinstance(record, str) else json.dumps(record) for record in records))
    return str(path)


# -- help and errors


def commands() -> list[list[str]]:
    found = []

    def walk(command: object, path: list[str]) -> None:
        for name, child in getattr(command, "commands", {}).items():
            walk(child, [*path, name])
        if path and not hasattr(command, "commands"):
            found.append(path)

    walk(typer.main.get_command(app), [])
    return found


def test_the_commands_are_those_that_the_documentation_names():
    assert {" ".join(path) for path in commands()} == {
        "up", "api", "worker", "mlflow", "doctor", "version",
        "items import", "sessions import", "forget", "batch release", "batch list",
        "tune", "wait", "tasks", "cancel", "restart", "methods",
        "models list", "models show", "models register", "models alias", "embed", "embed-items", "rank",
        "relational show", "relational validate", "relational fit", "relational predict", "log",
    }  # fmt: skip


@pytest.mark.parametrize("path", commands(), ids=" ".join)
def test_every_command_explains_itself_with_an_example(path: list[str]):
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, [*path, "--help"])
    assert result.exit_code == 0
    assert re.search(rf"Example: .*tuneloop {' '.join(path)}", result.stdout)
    if path[0] not in ("up", "api", "worker", "mlflow") and path != ["relational", "show"]:  # for the eye alone
        assert "--json" in result.stdout


def test_help_loads_little():
    script = "import sys; sys.argv = ['tuneloop', '--help']\ntry:\n import tuneloop.cli; tuneloop.cli.main()\n"
    script += "except SystemExit: print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = set(done.stderr.split())
    assert {"torch", "mlflow", "httpx", "pydantic", "sqlalchemy", "numpy", "pyarrow", "fastapi"} & loaded == set()


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["tasks", "--limit", "0"],
        ["tasks", "--status", "happy"],
        ["tune", "--set", "max_runs"],
        ["items", "import", "missing.jsonl"],
        ["items", "import"],
        ["sessions", "import", ".", "--format", "xml"],
        ["forget"],
        ["forget", "--user", "u", "--session", "s"],
        ["models", "register", "shop"],
        ["rank", "shop", "red"],
        ["embed", "shop"],
        ["version", "--no-such-option"],
    ],
    ids=" ".join,
)
def test_bad_arguments_are_one_line_and_status_2(run: Run, arguments: list[str]):
    result = run(*arguments, status=2)
    assert result.stdout == "" and len(result.stderr.splitlines()) == 1
    assert "--help" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["tasks", "0" * 24], "0" * 24),
        (["cancel", "0" * 24], "0" * 24),
        (["tune", "--set", "max_runs=0"], "settings.max_runs"),
        (["tune", "--set", "colour=red"], "settings.colour"),
        (["tune", "--method", "No such"], "Default Fine Tuning Method"),
        (["tune", "--batch", "0" * 24, "--json"], "0" * 24),
        (["batch", "release"], "collect"),
        (["tasks", "--url", "nonsense"], "http://localhost:5000"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_errors_of_the_service_are_one_line_and_status_1(run: Run, arguments: list[str], part: str):
    result = run(*arguments, status=1)
    assert result.stdout == "" and len(result.stderr.splitlines()) == 1
    assert part in result.stderr


def test_with_nobody_there_the_next_step_is_said():
    (port,) = free_ports(1)
    for command in (["tasks", "--json"], ["tune", "--wait"]):
        done = tuneloop(*command, "--url", f"http://127.0.0.1:{port}")
        assert done.returncode == 1 and done.stdout == ""
        assert "is `tuneloop up` running?" in done.stderr and len(done.stderr.splitlines()) == 1


def test_wrong_settings_are_one_line(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TUNELOOP_PORT", "many")
    for part in ("up", "api", "worker", "mlflow"):
        done = CliRunner().invoke(app, [part])
        assert done.exit_code == 1 and done.stderr.startswith("tuneloop: TUNELOOP_PORT:")
        assert len(done.stderr.splitlines()) == 1


def test_service_and_key_are_found_in_an_env_file(tmp_path: Path):
    with running(settings_for(tmp_path / "data", api_keys="ops:admin:secret")) as url:
        assert "API key" in tuneloop("tasks", "--url", url).stderr
        Path(".env").write_text(f"TUNELOOP_PORT={url.rpartition(':')[2]}\nTUNELOOP_API_KEY=secret\n")
        done = tuneloop("tasks", "--json")
        assert (done.returncode, json.loads(done.stdout)) == (0, [])
        assert tuneloop("tasks", "--api-key", "wrong").returncode == 1


def test_version(run: Run):
    assert run("version").stdout.startswith("tuneloop ")
    assert json.loads(run("version", "--json").stdout)["version"]


# -- data


def test_importing_items(run: Run, client: Client, tmp_path: Path):
    items = [{"object_id": f"i{n}", "text": "x"} for n in range(30)]
    file = jsonl(tmp_path / "items", [*items[:10], "{broken", *items[10:20]])
    result = run("items", "import", file)
    assert "20 accepted" in result.stdout and "1 rejected" in result.stdout and "line 11:" in result.stdout
    table = tmp_path / "table"
    pq.write_table(pa.Table.from_pylist([{"object_id": n, "fields": {"title": "Red"}} for n in range(5)]), table)
    assert json.loads(run("items", "import", str(table), "--json").stdout)["accepted"] == 5
    assert client.get_item("4").fields == {"title": "Red"}
    bad = jsonl(tmp_path / "bad", [{"object_id": "", "text": "x"}] * 15)
    result = run("items", "import", bad, status=1)
    assert "15 rejected" in result.stdout and "and 5 more" in result.stdout
    assert json.loads(run("items", "import", bad, "--json", status=1).stdout)["rejected_total"] == 15


def test_importing_sessions(run: Run, client: Client, tmp_path: Path):
    packed = tmp_path / "sessions.gz"
    packed.write_bytes(gzip.compress("\n".join(map(json.dumps, sessions(50))).encode()))
    report = json.loads(run("sessions", "import", str(packed), "--json").stdout)
    assert report == {"accepted": 50, "duplicates": 0, "rejected": [], "rejected_total": 0, "complete": True}
    table = tmp_path / "sessions.parquet"
    pq.write_table(pa.Table.from_pylist(sessions(60)), table)
    result = run("sessions", "import", str(table))
    assert "10 accepted" in result.stdout and "50 duplicates" in result.stdout
    assert client.get_session("s55").events[0].object_id == "b"
    ubi = jsonl(tmp_path / "ubi", [{"query_id": "q", "user_query": "red", "query_response_hit_ids": ["a"]}])
    assert "1 accepted" in run("sessions", "import", ubi).stdout
    assert "line 1:" in run("sessions", "import", ubi, "--format", "tuneloop", status=1).stdout
    assert client.get_session("q").search_query == "red"
    assert "0 accepted" in run("sessions", "import", jsonl(tmp_path / "empty", [])).stdout
    result = run("sessions", "import", jsonl(tmp_path / "list", [[1]]), status=1)
    assert "one JSON list" in result.stderr


def test_importing_from_a_pipe(client: Client):
    data = "\n".join(map(json.dumps, sessions(3)))
    done = tuneloop("sessions", "import", "-", "--json", "--url", client.url, input=data)
    assert done.returncode == 0 and json.loads(done.stdout)["accepted"] == 3 and done.stderr == ""


def test_forgetting_asks_first(run: Run, client: Client):
    client.import_sessions(sessions(3, user_id="u"))
    result = run("forget", "--user", "u", status=1, input="n\n")
    assert "user 'u'" in result.stderr and "nothing was done" in result.stderr and result.stdout == ""
    run("forget", "--user", "u", status=1, input="")
    assert run("forget", "--session", "s0", input="y\n").stdout == "erased 1 sessions\n"
    assert json.loads(run("forget", "--user", "u", "--yes", "--json").stdout) == {"deleted": 2}


def test_batches(run: Run, client: Client):
    client.import_sessions(sessions(3))
    batch_id = run("batch", "release", "--release-id", "mine").stdout.strip()
    assert json.loads(run("batch", "release", "--release-id", "mine", "--json").stdout) == {"batch_id": batch_id}
    assert re.search(rf"{batch_id} +released +3 +0", run("batch", "list").stdout)
    listed = {batch["batch_id"]: batch for batch in json.loads(run("batch", "list", "--json").stdout)}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}", listed[batch_id]["released_at"])


# -- learning


def test_tasks_without_a_worker(run: Run, client: Client):
    assert "error" in run("tune", status=1).stdout  # nothing is collected
    client.import_sessions(sessions(3))
    task = json.loads(run("tune", "--set", "max_runs=2", "--set", "encoders=two", "--json").stdout)
    assert task["status"] == "pending" and task["settings"] == {"max_runs": 2, "encoders": "two"}
    assert re.search(rf"{task['id']} +pending", run("tasks").stdout)
    assert [each["id"] for each in json.loads(run("tasks", "--status", "pending", "--json").stdout)] == [task["id"]]
    assert json.loads(run("tasks", task["id"], "--json").stdout) == task
    assert "settings" in run("tasks", task["id"]).stdout
    assert "canceled" in run("cancel", task["id"]).stdout
    assert run("wait", task["id"], status=1).stdout
    assert json.loads(run("restart", task["id"], "--json").stdout)["status"] == "pending"
    run("cancel", task["id"])


def test_methods(run: Run):
    assert re.search(r"max_runs +8 +Runs", run("methods").stdout)
    listed = json.loads(run("methods", "--json").stdout)
    assert listed["methods"][0]["main_metric"] and listed["failed"] == []


def test_ctrl_c_leaves_the_task_running(client: Client):
    client.import_sessions(sessions(3))
    command = [sys.executable, "-m", "tuneloop.cli", "tune", "--wait", "--url", client.url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as waiting:
        assert waiting.stderr is not None
        first = waiting.stderr.readline()
        assert "pending" in first
        waiting.send_signal(signal.SIGINT)
        out, err = waiting.communicate(timeout=120)
    (task,) = client.tasks()
    assert waiting.returncode == 130 and out == ""
    assert f"tuneloop cancel {task.id}" in err and "Traceback" not in err
    assert task.status == "pending"
    client.cancel_task(task.id)


def test_a_reader_that_goes_away_is_no_error(client: Client):
    client.import_sessions(sessions(3))
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as closed:
        command = [sys.executable, "-m", "tuneloop.cli", "methods", "--json", "--url", client.url]
        done = subprocess.run(command, stdout=closed, stderr=subprocess.PIPE, text=True, timeout=120, check=False)
    assert "Traceback" not in done.stderr


def test_the_estimate_counts_down_and_starts_when_something_moves():
    left = TimeLeft()
    left.update(0.0, 0)
    left.update(0.0, 100)  # preparing says nothing about training
    assert left.left(100) is None
    left.update(0.25, 110)
    assert left.left(110) == pytest.approx(30)
    left.update(0.25, 115)
    assert left.left(115) == pytest.approx(25)
    assert left.left(500) == 0
    left.update(0.0, 600)  # started again
    assert left.left(600) is None


def test_the_done_share_counts_finished_epochs():
    assert fraction_done(None) == fraction_done(Progress(stage="preparing")) == 0
    assert fraction_done(Progress(runs_done=1, runs_total=4)) == 0.25
    assert fraction_done(Progress(runs_done=1, runs_total=4, epoch=3, epochs=4)) == pytest.approx(1.5 / 4)
    assert fraction_done(Progress(runs_done=4, runs_total=4, epoch=9, epochs=4)) == 1


def test_the_done_share_counts_items():
    assert fraction_done(Progress(stage="embedding", items_done=30, items_total=120)) == 0.25
    assert fraction_done(Progress(stage="embedding", items_done=0, items_total=0)) == 0.0


def test_the_live_view_counts_items():
    progress = Progress(stage="embedding", items_done=1_200, items_total=5_430)
    view = TaskView()
    wanted = {"model": "shop [x]", "version": "3"}
    view.update(Task(id="t1", status="processing", kind="embed_items", settings=wanted, progress=progress))
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(view)
    shown = console.export_text()
    assert "embed_items shop [x]/3" in shown and "22%" in shown and "embedding · 1,200 of 5,430 items" in shown


def test_the_live_view_shows_where_the_task_is():
    view = TaskView()
    metric = {"name": "test_mrr", "value": 0.25, "best": 0.5}
    progress = {"stage": "training", "runs_done": 2, "runs_total": 8, "epoch": 1, "epochs": 2, "main_metric": metric}
    fields = {"id": "t1", "fine_tuning_method": "M [x]", "status": "processing", "progress": progress}
    view.update(Task.parse({**fields, "best_run_url": "http://m/#/experiments/1/runs/r"}))
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(view)
    text = console.export_text()
    for part in ("M [x]", "task t1", "training · run 3 of 8 · epoch 1 of 2", "25%", "test_mrr   now 0.2500   best 0.5"):
        assert part in text
    assert "http://m/#/experiments/1/runs/r" in text


# -- doctor


def test_doctor_with_nothing_running(monkeypatch: pytest.MonkeyPatch):
    port, mlflow_port = free_ports(2)
    monkeypatch.setenv("TUNELOOP_PORT", str(port))
    monkeypatch.setenv("TUNELOOP_MLFLOW_PORT", str(mlflow_port))
    done = CliRunner().invoke(app, ["doctor", "--json"])
    report = json.loads(done.stdout)
    states = {finding["name"]: finding["state"] for finding in report["findings"]}
    assert {name: states[name] for name in ("api", "database", "mlflow", "data folder")} == dict.fromkeys(
        ("api", "database", "mlflow", "data folder"), "note"
    )
    assert states["torch"] == states["methods"] == "ok"
    assert report["configured"]["TUNELOOP_PORT"] == str(port)
    assert done.exit_code == (0 if report["ok"] else 1)
    assert not Path("tuneloop-data").exists()  # looking changes nothing


def test_doctor_finds_what_is_wrong(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (port,) = free_ports(1)
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    (plugins / "broken.py").write_text("import no_such_module")
    monkeypatch.setenv("TUNELOOP_PLUGINS", str(plugins))
    monkeypatch.setenv("TUNELOOP_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("TUNELOOP_HOST", "0.0.0.0")
    monkeypatch.setenv("TUNELOOP_DATABASE_URL", f"postgresql://shop:hunter2@127.0.0.1:{port}/tuneloop")
    monkeypatch.setenv("TUNELOOP_MLFLOW_TRACKING_URI", f"http://me:hunter2@127.0.0.1:{port}")
    done = CliRunner().invoke(app, ["doctor"])
    assert done.exit_code == 1 and "hunter2" not in done.stdout
    for name in ("settings", "api", "database", "mlflow", "plugin broken.py"):
        assert re.search(rf"✗ {name}", done.stdout), (name, done.stdout)
    assert "no_such_module" in done.stdout and "→" in done.stdout
    monkeypatch.setenv("TUNELOOP_PORT", "x")
    assert "TUNELOOP_PORT" in json.loads(CliRunner().invoke(app, ["doctor", "--json"]).stdout)["findings"][0]["detail"]


def test_doctor_asks_a_running_service(run: Run, tmp_path: Path):
    report = json.loads(run("doctor", "--json", status=1).stdout)
    found = {finding["name"]: finding for finding in report["findings"]}
    assert found["api"]["state"] == found["database"]["state"] == "ok"
    assert found["queue"]["state"] == "problem" and "tuneloop worker" in found["queue"]["fix"]
    assert "api key" not in found
    with running(settings_for(tmp_path / "locked", api_keys="ops:admin:secret")) as url:
        report = json.loads(run("doctor", "--json", "--url", url, status=1).stdout)
    assert {finding["name"]: finding["state"] for finding in report["findings"]}["api key"] == "problem"


# -- the whole loop


def test_from_files_to_a_ranking(make_service: Callable[..., object], tmp_path: Path):
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    shutil.copy(probe_method.__file__, plugins)
    service = make_service(plugins=plugins).start()

    def command(*arguments: str, status: int = 0) -> str:
        done = tuneloop(*arguments, "--url", service.url)
        assert done.returncode == status, (done.stdout, done.stderr)
        return done.stdout

    items = [{"object_id": "a/1", "text": "red shoes"}, {"object_id": "b,2", "text": "green hat"}]
    command("items", "import", jsonl(tmp_path / "items", items))
    command("sessions", "import", jsonl(tmp_path / "sessions", sessions(50)))
    chosen = ("--set", "max_runs=2", "--set", "seconds_per_step=0.5")
    started = tuneloop("tune", "--method", "Probe", *chosen, "--wait", "--url", service.url)
    assert started.returncode == 0 and re.search(r"run \d of 2 · epoch \d of 5", started.stderr), started
    task_id = re.search(r"^task +(\w+)", started.stdout, re.MULTILINE).group(1)
    assert re.search(r"^status +done", started.stdout, re.MULTILINE)
    assert f"models register NAME --task {task_id}" in started.stderr

    assert command("models", "register", "shop", "--task", task_id).strip() == "shop/1"
    assert command("models", "alias", "shop", "champion", "1").strip() == "shop@champion is now shop/1"
    assert re.search(r"shop +1 +1 +@champion → 1", command("models", "list"))
    assert re.search(r"^ +1 +@champion", command("models", "show", "shop"), re.MULTILINE)
    shown = json.loads(command("models", "show", "shop", "--json"))
    assert shown["aliases"] == {"champion": "1"} and shown["versions"][0]["metrics"]["test_score"] > 0
    assert shown["versions"][0]["run_id"] == json.loads(command("tasks", task_id, "--json"))["best_run_id"]

    made = json.loads(command("embed", "shop@champion", "red shoes", "hat", "--json"))
    assert made["model"] == "shop/1" and [len(vector) for vector in made["embeddings"]] == [made["dimensions"]] * 2
    assert "26 dimensions" in command("embed", "shop", "red", "--kind", "item")
    ranked = json.loads(command("rank", "shop/1", "red shoes", "--items", str(tmp_path / "items"), "--json"))
    assert [result["object_id"] for result in ranked["results"]] == ["a/1", "b,2"]
    assert re.search(r"1 +\S+ +a/1", command("rank", "shop", "red shoes", "--ids", "a/1"))
    unknown = tuneloop("rank", "shop", "red", "--ids", "a/1,nope", "--url", service.url)
    assert unknown.returncode == 1 and "nope" in unknown.stderr
    command("embed", "no-such-model", "red", status=1)

    told = tuneloop("embed-items", "shop@champion", "--output", str(tmp_path), "--url", service.url)
    assert told.returncode == 0 and re.search(r"^items +2, of which 2 were encoded", told.stdout, re.MULTILINE), told
    assert re.search(r"^work +embed_items shop/1$", told.stdout, re.MULTILINE)
    [file] = tmp_path.glob("*.parquet")
    assert f"wrote {file}" in told.stderr.replace("\n", "")
    assert pq.read_table(file).column("object_id").to_pylist() == ["a/1", "b,2"]
    again = json.loads(command("embed-items", "shop/1", "--wait", "--json"))
    assert again["status"] == "done" and again["progress"]["items_encoded"] == 0
    assert "embed_items shop/1" in command("tasks")
    nowhere = tuneloop("embed-items", "shop", "--output", str(tmp_path / "no" / "file"), "--url", service.url)
    assert nowhere.returncode == 2 and "no folder" in nowhere.stderr

    with Client(service.url) as client:
        vectors = client.embed("shop", ["red shoes"] * 3_000, kind="item")
        assert vectors.shape == (3_000, 26) and vectors.dtype == "float32"
        assert client.health().ok
    healthy = CliRunner().invoke(app, ["doctor", "--url", service.url])
    assert "✓ queue" in healthy.stdout and "✓ mlflow" in healthy.stdout

    slow = json.loads(
        command(
            "tune", "--method", "Probe", "--batch", shown_batch(service.url), "--set", "seconds_per_step=2", "--json"
        )
    )
    wait_until(lambda: "training" in command("tasks", slow["id"]), what="the training to begin")
    command("cancel", slow["id"])
    command("wait", slow["id"], status=1)


def shown_batch(url: str) -> str:
    with Client(url) as client:
        return next(batch.batch_id for batch in client.batches() if batch.status == "released")


def test_a_dataset_is_shown_and_drawn_without_a_service(tmp_path: Path) -> None:
    Dataset.parse(write_shop(tmp_path)).save(tmp_path / "shop.yaml")
    done = tuneloop("relational", "show", "shop.yaml", "--svg", "shop.svg", env={**os.environ, "COLUMNS": "160"})
    assert done.returncode == 0, done.stderr
    assert "transactions" in done.stdout and "800 rows" in done.stdout
    assert "<svg" in (tmp_path / "shop.svg").read_text()


def test_problems_of_a_dataset_are_told_with_their_fix(run: Run, tmp_path: Path) -> None:
    document = write_shop(tmp_path)
    Dataset.parse(document).save(tmp_path / "shop.yaml")
    assert "nothing is wrong" in run("relational", "validate", "shop.yaml").output
    document["tables"][2]["time_column"] = "tdat"
    Dataset.parse(document).save(tmp_path / "shop.yaml")
    found = run("relational", "validate", "shop.yaml", status=1).output
    assert "transactions.tdat" in found and "did you mean t_dat?" in found
    (problem,) = json.loads(run("relational", "validate", "shop.yaml", "--json", status=1).stdout)
    assert (problem["table"], problem["column"]) == ("transactions", "tdat")


def test_learning_from_tables_is_asked_for(run: Run, client: Client, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    file = str(tmp_path / "shop.yaml")
    Dataset.parse(write_shop(tmp_path / "mine")).save(file)
    asked = json.loads(run("relational", "fit", file, "--set", "max_runs=2", "--no-wait", "--json").stdout)
    assert (asked["kind"], asked["status"], asked["settings"]) == ("relational", "pending", {"max_runs": 2})
    assert re.search(rf"{asked['id']} +pending .* relational shop/churn", run("tasks").stdout)
    assert run("log", asked["id"]).stdout == ""
    assert json.loads(run("log", asked["id"], "--json").stdout)["lines"] == []
    run("cancel", asked["id"])
    assert "hops" in run("relational", "fit", file, "--set", "hops=3", status=1).stderr
    run("relational", "fit", file, "--no-wait", "--register", "churn", status=2)
    write_shop(tmp_path / "mine", customers=lambda c: c | {"customer_id": ["c0"] * len(c["age"])})
    wrong = run("relational", "fit", file, "--no-wait", status=1)
    assert "customers.customer_id is a candidate key with 59 duplicates" in wrong.stderr
    assert len(client.tasks()) == 1
