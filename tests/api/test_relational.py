"""Tables over HTTP: sending them, and what is wrong with them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.tables import write_shop

UPLOAD, VALIDATE, SOURCES = (f"/api/v1/relational/{name}" for name in ("upload", "validate", "sources"))


def uploaded(http: httpx.Client, document: dict[str, Any]) -> dict[str, Any]:
    """The dataset with all its files sent."""

    def send(source: str) -> str:
        answer = http.post(UPLOAD, params={"name": Path(source).name}, content=Path(source).read_bytes())
        assert answer.status_code == 200, answer.text
        return str(answer.json()["source"])

    tables = [table | {"source": send(table["source"])} for table in document["tables"]]
    splits = {name: send(source) for name, source in document["task"]["source"].items()}
    return document | {"tables": tables, "task": document["task"] | {"source": splits}}


def test_a_dataset_is_sent_and_found_sound(http: httpx.Client, tmp_path: Path) -> None:
    answer = http.post(VALIDATE, json={"dataset": uploaded(http, write_shop(tmp_path))})
    assert (answer.status_code, answer.json()) == (200, {"problems": []})


def test_problems_name_table_column_and_fix(http: httpx.Client, tmp_path: Path) -> None:
    document = uploaded(http, write_shop(tmp_path))
    document["tables"][2]["time_column"] = "tdat"
    assert http.post(VALIDATE, json={"dataset": document}).json() == {
        "problems": [
            {
                "table": "transactions",
                "column": "tdat",
                "problem": "is the time column, and there is no such column",
                "fix": "did you mean t_dat?",
            }
        ]
    }


def test_what_is_no_dataset_is_refused_by_name(http: httpx.Client, tmp_path: Path) -> None:
    document = write_shop(tmp_path)
    document["task"]["evaluation_metric"] = "mae"
    answer = http.post(VALIDATE, json={"dataset": document})
    assert answer.status_code == 422
    assert "evaluation_metric" in str(answer.json()["detail"])
    del document["tables"]
    answer = http.post(VALIDATE, json={"dataset": document})
    assert ["body", "dataset", "tables"] in [each["loc"] for each in answer.json()["detail"]]


def test_the_service_reads_nothing_outside_its_roots(serve: Callable[..., httpx.Client], tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    document = write_shop(tmp_path / "open")
    closed = serve()
    problems = closed.post(VALIDATE, json={"dataset": document}).json()["problems"]
    assert {each["table"] for each in problems} >= {"customers", "articles", "transactions", "task.train"}
    assert all("TUNELOOP_TABLE_ROOTS" in each["problem"] for each in problems)


def test_the_service_reads_under_its_roots(serve: Callable[..., httpx.Client], tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    document = write_shop(tmp_path / "open")
    assert serve(table_roots=str(tmp_path / "open")).post(VALIDATE, json={"dataset": document}).json() == {
        "problems": []
    }


def test_a_path_that_is_another_file_here_must_be_sent(serve: Callable[..., httpx.Client], tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("id\n1\n")
    found = path.stat()
    same = {"source": str(path), "size": found.st_size, "modified_ns": found.st_mtime_ns}
    http = serve(table_roots=str(tmp_path))
    absent = {"source": "upload:" + "0" * 64 + ".csv"}
    asked = [same, same | {"size": 1, "source": str(path)}, absent]
    assert http.post(SOURCES, json={"sources": asked[:1]}).json() == {"missing": []}
    assert http.post(SOURCES, json={"sources": asked[1:]}).json() == {"missing": [str(path), absent["source"]]}


@pytest.mark.parametrize(("name", "content"), [("a.parquet", b"nonsense"), ("a.csv", b""), ("a.exe", b"id\n1\n")])
def test_what_is_no_table_is_not_stored(http: httpx.Client, name: str, content: bytes) -> None:
    assert http.post(UPLOAD, params={"name": name}, content=content).status_code == 422


def test_a_table_may_be_larger_than_other_bodies(serve: Callable[..., httpx.Client]) -> None:
    http = serve(max_body_mb=0.01)
    assert http.post(UPLOAD, params={"name": "a.csv"}, content=b"id\n" + b"1\n" * 50_000).status_code == 200


# -- asking for a model


TASK = "/api/v1/relational/task"


def test_a_task_is_asked_for_once(http: httpx.Client, new_id: Callable[[], str], tmp_path: Path) -> None:
    body = {
        "dataset": uploaded(http, write_shop(tmp_path)),
        "settings": {"max_runs": 3, "max_minutes": None, "learners": ["boosted"], "hops": 1},
        "metadata": {"why": "spring"},
        "idempotency_key": new_id(),
    }
    answer = http.post(TASK, json=body)
    assert answer.status_code == 200, answer.text
    task = answer.json()
    assert (task["kind"], task["status"]) == ("relational", "pending")
    assert {name: task[name] for name in ("settings", "metadata", "idempotency_key")} == {
        name: body[name] for name in ("settings", "metadata", "idempotency_key")
    }
    assert task["dataset"]["task"]["name"] == "churn"
    assert http.post(TASK, json=body).json() == task
    assert http.post(TASK, json=body | {"settings": {}}).status_code == 409
    assert http.get(f"/api/v1/tasks/{task['id']}").json() == task
    listed = http.get("/api/v1/tasks", params={"kind": "relational", "limit": 1}).json()
    assert [each["id"] for each in listed] == [task["id"]]
    assert http.put(f"/api/v1/tasks/{task['id']}/cancel").json()["status"] == "canceled"
    assert http.post(TASK, json={"dataset": body["dataset"]}).json()["settings"] == {}


def test_a_dataset_with_problems_is_refused_with_their_list(http: httpx.Client, tmp_path: Path) -> None:
    document = uploaded(http, write_shop(tmp_path, customers=lambda c: c | {"customer_id": ["c0"] * len(c["age"])}))
    before = http.get("/api/v1/tasks", params={"kind": "relational"}).json()
    answer = http.post(TASK, json={"dataset": document})
    assert answer.status_code == 422
    assert answer.json()["detail"] == http.post(VALIDATE, json={"dataset": document}).json()["problems"]
    assert {"table": "customers", "column": "customer_id"}.items() <= answer.json()["detail"][0].items()
    assert http.get("/api/v1/tasks", params={"kind": "relational"}).json() == before


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"max_runs": 0}, ["max_runs"]),
        ({"max_runs": "3"}, ["max_runs"]),
        ({"max_minutes": -1}, ["max_minutes"]),
        ({"learners": ["oracle"]}, ["learners", 0]),
        ({"learners": []}, ["learners"]),
        ({"hops": 3}, ["hops"]),
        ({"speed": 9}, ["speed"]),
    ],
)
def test_wrong_settings_of_a_search_are_named(
    http: httpx.Client, tmp_path: Path, settings: dict[str, Any], field: list[Any]
) -> None:
    answer = http.post(TASK, json={"dataset": write_shop(tmp_path), "settings": settings})
    assert answer.status_code == 422
    assert [each["loc"] for each in answer.json()["detail"]] == [["body", "settings", *field]]


def test_without_a_task_there_is_nothing_to_learn(http: httpx.Client, tmp_path: Path) -> None:
    document = write_shop(tmp_path)
    del document["task"]
    answer = http.post(TASK, json={"dataset": document})
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["body", "dataset", "task"]


def test_the_log_of_a_task_begins_empty(http: httpx.Client, tmp_path: Path) -> None:
    task = http.post(TASK, json={"dataset": uploaded(http, write_shop(tmp_path))}).json()
    path = f"/api/v1/tasks/{task['id']}/log"
    first = http.get(path).json()
    assert first["lines"] == [] and first["next"]
    assert http.get(path, params={"after": first["next"]}).json() == first
    assert http.get(path, params={"after": "§"}).status_code == 422
    assert http.get(f"/api/v1/tasks/{'0' * 24}/log").status_code == 404
