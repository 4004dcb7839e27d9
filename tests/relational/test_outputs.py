"""Tables are written where that is allowed, whole, and over nothing that is there unless that is meant."""

import json
from collections.abc import Callable
from pathlib import Path

import duckdb
import psycopg
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from tuneloop.errors import Conflict, InvalidInput
from tuneloop.relational.outputs import Output, Outputs
from tuneloop.relational.writing import exists, place, write_file, write_table

LINKS = pa.list_(pa.struct({"key": pa.int64(), "score": pa.float64()}))
EMBEDDING = pa.FixedSizeListArray.from_arrays(pa.array([1.0, 2.0, 3.0, 4.0], pa.float32()), 2)
PREDICTED = pa.table(
    {
        "customer_id": ["a", "it's, \"b\""],
        "prediction": pa.array([[{"key": 1, "score": 0.5}], []], LINKS),
        "probabilities": [{"x": 0.25, "y": 0.75}, {"x": 1.0, "y": None}],
        "classes": [["x"], ["x", "y"]],
        "embedding": EMBEDDING,
    }
)  # fmt: skip


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "tables"
    folder.mkdir()
    return folder


@pytest.fixture
def outputs(tmp_path: Path, root: Path) -> Outputs:
    urls = {"shop": "postgresql://u:secret@h/d", "lake": "snowflake://u@h/d", "other": "postgresql://u@h/e"}
    folder = tmp_path / "data" / "predictions"
    closed = [tmp_path / "data", root / "closed"]
    return Outputs(folder, roots=[root], connections=urls, writable=["shop", "lake"], closed=closed)


@pytest.fixture
def staged(tmp_path: Path) -> Path:
    pq.write_table(PREDICTED, tmp_path / "staged.parquet")
    return tmp_path / "staged.parquet"


def test_places_that_may_be_written_to(outputs: Outputs, root: Path, tmp_path: Path) -> None:
    assert outputs.locate(f"{root}/p.parquet") == Output(f"{root}/p.parquet", "parquet", path=root / "p.parquet")
    assert outputs.locate("churn 1.csv").path == tmp_path / "data" / "predictions" / "churn 1.csv"
    table = outputs.locate(f"{root}/p.duckdb#scores.churn")
    assert (table.kind, table.path, table.table) == ("duckdb", root / "p.duckdb", "scores.churn")
    assert outputs.locate("shop#public.churn").name == "shop#public.churn"


@pytest.mark.parametrize(
    ("output", "problem"),
    [
        ("{tmp}/p.parquet", "outside the folders"),
        ("{root}/../p.parquet", "outside the folders"),
        ("{root}/link.parquet", "outside the folders"),
        ("{root}/linked/p.parquet", "outside the folders"),
        ("{root}/closed/p.parquet", "outside the folders"),
        ("{tmp}/data/uploads/p.parquet", "outside the folders"),
        ("{root}/none/p.parquet", "no folder"),
        ("{root}/folder.csv", "is a folder"),
        ("{root}/p.xlsx", "no known kind"),
        ("{root}/p.duckdb", "name a table"),
        ("{root}/p.duckdb#", "name a table"),
        (".hidden.csv", "no name for a file"),
        ("other#t", "TUNELOOP_TABLE_WRITABLE=other"),
        ("lake#t", "no PostgreSQL"),
        ("shop#", "name a table"),
        ("nobody#t", "no place to write to"),
        ("postgresql://u@h/d#t", "no place to write to"),
        ("upload:x.parquet", "no place to write to"),
    ],
)
def test_nothing_else_is_written_to(outputs: Outputs, root: Path, tmp_path: Path, output: str, problem: str) -> None:
    (root / "closed").mkdir()
    (root / "folder.csv").mkdir()
    (root / "link.parquet").symlink_to(tmp_path / "p.parquet")
    (root / "linked").symlink_to(tmp_path)
    with pytest.raises(InvalidInput, match=problem) as told:
        outputs.locate(output.format(tmp=tmp_path, root=root))
    assert "secret" not in told.value.detail


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_files_hold_everything(outputs: Outputs, root: Path, staged: Path, kind: str) -> None:
    output = outputs.locate(f"{root}/p.{kind}")
    part = root / ".p.part"
    assert not exists(output)
    write_file(staged, part, output, lambda: None)
    assert not exists(output)
    place(part, output)
    assert exists(output)
    if kind == "parquet":
        assert pq.read_table(output.path).equals(PREDICTED)
    else:
        rows = pa.csv.read_csv(output.path).to_pylist()
        assert [row["customer_id"] for row in rows] == ["a", 'it\'s, "b"']
        assert json.loads(rows[0]["prediction"]) == [{"key": 1, "score": 0.5}]
        assert json.loads(rows[1]["embedding"]) == [3.0, 4.0]
    with pytest.raises(Conflict, match="exists already"):
        place(part, output)


def test_a_table_of_a_duckdb_file(outputs: Outputs, root: Path, staged: Path) -> None:
    output = outputs.locate(f"{root}/p.duckdb#s.churn")
    write = lambda mark, overwrite=False: write_table(  # noqa: E731
        staged, output, mark=mark, overwrite=overwrite, check=lambda: None
    )
    assert not exists(output)
    write("tuneloop task 1")
    assert exists(output) and not exists(outputs.locate(f"{root}/p.duckdb#churn"))
    write("tuneloop task 1")  # a try after a kill
    with pytest.raises(Conflict, match="exists already"):
        write("tuneloop task 2")
    with duckdb.connect(output.path) as connection:
        connection.execute("DELETE FROM s.churn; CREATE TABLE mine AS SELECT 1 AS x")
    write("tuneloop task 2", overwrite=True)
    with duckdb.connect(output.path, read_only=True) as connection:
        found = connection.execute("SELECT * FROM s.churn").fetchall()
        assert found[0] == ("a", [{"key": 1, "score": 0.5}], {"x": 0.25, "y": 0.75}, ["x"], [1.0, 2.0])
        assert connection.execute("SELECT count(*) FROM mine").fetchone() == (1,)
    assert [path.name for path in root.iterdir()] == ["p.duckdb"]


def test_a_table_of_postgresql(root: Path, staged: Path, tmp_path: Path, postgresql_url: Callable[[], str]) -> None:
    url = postgresql_url()
    outputs = Outputs(tmp_path / "p", connections={"shop": url}, writable=["shop"])
    output = outputs.locate('shop#public.churn "x"')
    write = lambda mark, overwrite=False: write_table(  # noqa: E731
        staged, output, mark=mark, overwrite=overwrite, check=lambda: None
    )
    assert not exists(output)
    write("tuneloop task 1")
    assert exists(output)
    write("tuneloop task 1")
    with pytest.raises(Conflict, match="exists already"):
        write("tuneloop task 2")
    with psycopg.connect(url) as connection:
        query = 'SELECT * FROM "churn ""x""" ORDER BY customer_id'
        first, second = connection.execute(query).fetchall()
        assert first == ("a", [{"key": 1, "score": 0.5}], {"x": 0.25, "y": 0.75}, ["x"], [1.0, 2.0])
        assert second[0] == 'it\'s, "b"' and second[3] == ["x", "y"]
        connection.execute('DELETE FROM "churn ""x"""')
    write("tuneloop task 2", overwrite=True)
    with psycopg.connect(url) as connection:
        assert connection.execute('SELECT count(*) FROM "churn ""x"""').fetchone() == (2,)
    with pytest.raises(InvalidInput, match="cannot be written"):
        write_table(staged, outputs.locate("shop#none.t"), mark="m", overwrite=False, check=lambda: None)


def test_a_stop_leaves_nothing_of_a_table(
    root: Path, staged: Path, tmp_path: Path, postgresql_url: Callable[[], str]
) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    outputs = Outputs(tmp_path / "p", roots=[root], connections={"shop": postgresql_url()}, writable=["shop"])
    for name in (f"{root}/p.duckdb#t", "shop#t"):
        output = outputs.locate(name)
        with pytest.raises(KeyboardInterrupt):
            write_table(staged, output, mark="m", overwrite=True, check=stop)
        assert not exists(output)
    assert list(root.iterdir()) == []
