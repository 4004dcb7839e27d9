"""Tables are read where that is allowed, and nowhere else."""

from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tuneloop.errors import InvalidInput
from tuneloop.relational.dataset import Dataset
from tuneloop.relational.opening import open_tables
from tuneloop.relational.sources import Sources, is_path, split_path
from tuneloop.relational.uploads import Uploads, digest_of


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with a table of each kind, beside one that is nobody's business."""
    folder = tmp_path / "tables"
    (folder / "parts").mkdir(parents=True)
    table = pa.table({"id": [1, 2, 3]})
    pq.write_table(table, folder / "a.parquet")
    pq.write_table(table.slice(0, 1), folder / "parts" / "1.parquet")
    pq.write_table(table.slice(1), folder / "parts" / "2.parquet")
    (folder / "a.csv").write_text("id\n1\n2\n3\n")
    with duckdb.connect(str(folder / "shop.duckdb")) as connection:
        connection.execute("CREATE TABLE a AS SELECT range + 1 AS id FROM range(3)")
        connection.execute("CREATE SCHEMA s; CREATE TABLE s.b AS SELECT range + 1 AS id FROM range(3)")
    pq.write_table(table, tmp_path / "secret.parquet")
    return folder


@pytest.mark.parametrize("source", ["a.parquet", "a.csv", "parts", "shop.duckdb#a", "shop.duckdb#s.b"])
def test_every_kind_of_table_is_read(root: Path, source: str) -> None:
    with open_tables({"t": f"{root}/{source}"}, Sources(roots=[root])) as tables:
        assert tables.problems == {}
        assert sorted(tables["t"].to_pyarrow()["id"].to_pylist()) == [1, 2, 3]


def test_two_tables_of_one_duckdb_file_are_read(root: Path) -> None:
    wanted = {"x": f"{root}/shop.duckdb#a", "y": f"{root}/shop.duckdb#s.b", "z": f"{root}/a.csv"}
    with open_tables(wanted, Sources(roots=[root])) as tables:
        joined = tables["x"].join(tables["y"], "id").join(tables["z"], "id")
        assert joined.count().to_pyarrow().as_py() == 3


@pytest.mark.parametrize("source", ["../secret.parquet", "link.parquet", "linked"])
def test_nothing_outside_the_roots_is_read(root: Path, source: str) -> None:
    (root / "link.parquet").symlink_to(root.parent / "secret.parquet")
    (root / "linked").mkdir()
    (root / "linked" / "a.parquet").symlink_to(root.parent / "secret.parquet")
    with pytest.raises(InvalidInput, match="folders that tables are read from"):
        Sources(roots=[root]).locate(f"{root}/{source}")
    assert Sources().locate(f"{root}/{source}")  # in a script of one's own


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("none.parquet", "no file"),
        ("a.xlsx", "no file"),
        ("*.parquet", "without"),
        ("shop.duckdb", "name a table"),
        ("a.parquet#x", "neither a DuckDB file nor a connection"),
    ],
)
def test_what_is_no_table_is_refused(root: Path, source: str, problem: str) -> None:
    with pytest.raises(InvalidInput, match=problem):
        Sources(roots=[root]).locate(f"{root}/{source}")


@pytest.mark.parametrize(
    ("source", "path", "table"),
    [
        ("a.parquet", "a.parquet", ""),
        ("/srv/a:b.parquet", "/srv/a:b.parquet", ""),
        ("2024-01-01T10:00.csv", "2024-01-01T10:00.csv", ""),
        ("parts", "parts", ""),
        ("x/shop.duckdb#s.a", "x/shop.duckdb", "#s.a"),
        ("x/shop.DDB#a", "x/shop.DDB", "#a"),
        ("c:/x/a.csv", "c:/x/a.csv", ""),
    ],
)
def test_what_is_a_path(source: str, path: str, table: str) -> None:
    assert is_path(source)
    assert split_path(source) == (Path(path), table)


@pytest.mark.parametrize(
    "source",
    ["upload:abc.parquet", "shop#customers", "shop.v2#s.t", "postgresql://u@h/d#t", "Postgresql://h/d", "s3://b/a.csv"],
)
def test_what_is_no_path(source: str) -> None:
    assert not is_path(source)
    with pytest.raises(InvalidInput):
        Sources(roots=[Path("/")]).locate(source)


def test_paths_of_a_document_start_at_its_folder(tmp_path: Path) -> None:
    sources = ["a:b.csv", "x.duckdb#t", "shop.v2#t", "upload:x.csv", "postgresql://u@h/d#t", "/abs/a.csv"]
    tables = [{"name": f"t{number}", "source": source} for number, source in enumerate(sources)]
    Dataset.parse({"name": "d", "tables": tables}).save(tmp_path / "d.yaml")
    here = [f"{tmp_path}/a:b.csv", f"{tmp_path}/x.duckdb#t", *sources[2:]]
    assert [table.source for table in Dataset.load(tmp_path / "d.yaml").tables] == here


def test_a_service_reads_databases_by_their_names_only(root: Path) -> None:
    sources = Sources(roots=[root], connections={"shop": "postgresql://user:secret@host/db"})
    assert sources.locate("shop#public.customers").table == "public.customers"
    with pytest.raises(InvalidInput, match="TUNELOOP_TABLE_CONNECTIONS"):
        sources.locate("postgresql://user:secret@host/db#customers")
    with pytest.raises(InvalidInput, match="name a table"):
        sources.locate("shop")


def test_sql_reads_no_other_file(root: Path) -> None:
    with open_tables({"t": f"{root}/a.parquet"}, Sources(roots=[root])) as tables:
        for attempt in (
            f"SELECT * FROM '{root.parent}/secret.parquet'",
            f"SELECT * FROM read_csv('{root}/a.csv')",
            f"COPY t TO '{root}/out.parquet'",
            "SET enable_external_access=true",
        ):
            with pytest.raises(Exception, match=r"(?i)disabled|locked|permission|cannot"):
                tables.engine.raw_sql(attempt)
    assert not (root / "out.parquet").exists()


def test_what_cannot_be_opened_is_said_for_each_table(root: Path) -> None:
    (root / "broken.parquet").write_bytes(b"PAR1 nonsense")
    wanted = {"good": f"{root}/a.parquet", "broken": f"{root}/broken.parquet", "absent": f"{root}/x.parquet"}
    with open_tables(wanted, Sources(roots=[root])) as tables:
        assert set(tables) == {"good"}
        assert set(tables.problems) == {"broken", "absent"}


def test_tables_of_postgresql_are_read_there(root: Path, postgresql_url) -> None:
    import psycopg

    url = postgresql_url().replace("postgresql+psycopg://", "postgresql://")
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE customers AS SELECT generate_series(1, 3) AS id")
        connection.execute("CREATE SCHEMA s")
        connection.execute("CREATE TABLE s.orders AS SELECT generate_series(1, 3) AS id")
    sources = Sources(roots=[root], connections={"shop": url})
    with open_tables({"a": "shop#customers", "b": "shop#s.orders"}, sources) as tables:
        assert not tables.is_local
        assert tables["a"].join(tables["b"], "id").count().to_pyarrow().as_py() == 3
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            tables.engine.raw_sql("DELETE FROM customers")
    with open_tables({"a": "shop#customers", "b": f"{root}/a.parquet"}, sources) as tables:  # side by side with files
        assert tables.problems == {}
        assert tables.is_local
        assert tables["a"].join(tables["b"], "id").count().to_pyarrow().as_py() == 3
    with open_tables({"a": "shop#nowhere"}, sources) as tables:
        assert "a" in tables.problems


def test_an_upload_is_stored_once_whole_or_not_at_all(root: Path, tmp_path: Path) -> None:
    uploads = Uploads(tmp_path / "uploads")
    data = (root / "a.parquet").read_bytes()
    source = uploads.receive([data[:10], data[10:]], "my table.parquet")
    assert uploads.receive([data], "another name.PARQUET") == source == digest_of(root / "a.parquet")
    assert len(list(uploads.folder.iterdir())) == 1
    with pytest.raises(InvalidInput, match="no whole Parquet file"):
        uploads.receive([data[:-1]], "cut.parquet")
    with pytest.raises(InvalidInput, match="empty"):
        uploads.receive([], "empty.csv")
    with pytest.raises(InvalidInput, match="no known kind"):
        uploads.receive([data], "virus.exe")

    def breaks_off():
        yield data[:10]
        raise ConnectionError

    with pytest.raises(ConnectionError):
        uploads.receive(breaks_off(), "a.csv")
    assert len(list(uploads.folder.iterdir())) == 1
    location = Sources(roots=[], uploads=uploads.folder).locate(source)
    assert location.path is not None and location.path.read_bytes() == data


@pytest.mark.parametrize("name", ["../secret.parquet", "x.parquet", "0" * 64 + ".parquet", "0" * 64, ""])
def test_an_upload_leads_to_uploads_only(root: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidInput, match="no upload"):
        Sources(roots=[root], uploads=tmp_path).locate(f"upload:{name}")
