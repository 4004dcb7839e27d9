"""The database: its schema, its migrations, its transactions."""

import importlib
import os
import threading
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

import tuneloop
from support.postgres import packaged_binaries, postgres_server, system_binaries
from tuneloop.catalog.tables import items
from tuneloop.database import Database, OpaqueId, metadata


def _import_all_tables() -> None:
    package = Path(tuneloop.__file__).parent
    for file in package.glob("*/tables.py"):
        importlib.import_module(f"tuneloop.{file.parent.name}.tables")


def test_migrations_make_the_tables_that_the_code_expects(database: Database) -> None:
    _import_all_tables()
    with database.read() as connection:
        options = {"compare_type": True, "compare_server_default": True}
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, metadata) == []


def test_migrating_again_changes_nothing(database: Database) -> None:
    with database.write() as connection:
        connection.execute(items.insert().values(object_id="a", updated_at=1))
    database.migrate()
    with database.read() as connection:
        assert connection.scalar(sa.select(items.c.object_id)) == "a"


def test_parts_that_start_together_migrate_once(database_url: str) -> None:
    databases = [Database(database_url) for _ in range(4)]
    errors: list[BaseException] = []

    def migrate(database: Database) -> None:
        try:
            database.migrate()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=migrate, args=[database]) for database in databases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    with databases[0].read() as connection:
        assert "sessions" in sa.inspect(connection).get_table_names()
    for database in databases:
        database.dispose()


def test_a_write_that_raises_leaves_nothing(database: Database) -> None:
    with pytest.raises(RuntimeError), database.write() as connection:
        connection.execute(items.insert().values(object_id="a", updated_at=1))
        raise RuntimeError
    with database.read() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(items)) == 0


def test_a_read_sees_one_state(database: Database) -> None:
    count = sa.select(sa.func.count()).select_from(items)
    with database.read() as reading:
        assert reading.scalar(count) == 0
        with database.write() as writing:
            writing.execute(items.insert().values(object_id="a", updated_at=1))
        assert reading.scalar(count) == 0
    with database.read() as reading:
        assert reading.scalar(count) == 1


def test_ids_are_ordered_by_code_point_in_both_databases(database: Database) -> None:
    ids = ["b", "B", "a", "_", "é", "z", "\U0001f600", "\ufb01"]
    with database.write() as connection:
        connection.execute(items.insert(), [{"object_id": id_, "updated_at": 1} for id_ in ids])
    with database.read() as connection:
        assert list(connection.scalars(sa.select(items.c.object_id).order_by(items.c.object_id))) == sorted(ids)


def test_ids_are_ordered_by_code_point_whatever_the_locale_of_postgresql(postgresql_url: Callable[[], str]) -> None:
    _import_all_tables()
    database = Database(postgresql_url())
    database.migrate()
    columns = sa.table(
        "columns", *map(sa.column, ("table_name", "column_name", "collation_name")), schema="information_schema"
    )
    with database.read() as connection:
        collations = {tuple(row[:2]): row[2] for row in connection.execute(sa.select(columns))}
    database.dispose()
    expected = [column for table in metadata.tables.values() for column in table.c if column.type is OpaqueId]
    assert len(expected) >= 6
    assert {collations[column.table.name, column.name] for column in expected} == {"C"}


def test_scrub_leaves_no_bytes_of_deleted_rows(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/tuneloop.sqlite")
    database.migrate()
    for number in range(50):
        with database.write() as connection:
            text = f"unforgettable {number} " * 500
            connection.execute(items.insert().values(object_id=f"{number}", text=text, updated_at=1))
    assert any(b"unforgettable" in file.read_bytes() for file in tmp_path.iterdir())
    with database.write() as connection:
        connection.execute(items.delete())
    database.scrub()
    assert not any(b"unforgettable" in file.read_bytes() for file in tmp_path.iterdir())
    database.dispose()


@pytest.mark.parametrize("source", ["system", "package"])
def test_postgresql_for_tests_starts_from_either_source(source: str) -> None:
    binaries = system_binaries() if source == "system" else packaged_binaries()
    if binaries is None:
        pytest.skip("this machine has no PostgreSQL of its own")
    with postgres_server(binaries) as url, psycopg.connect(url) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(url, connect_timeout=2)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has folders that the server's user cannot enter")
def test_postgresql_for_tests_starts_from_a_folder_closed_to_others(tmp_path: Path) -> None:
    package = packaged_binaries().parent.parent
    for folder in (package, package.with_name(f"{package.name}.libs")):
        (tmp_path / folder.name).symlink_to(folder)
    tmp_path.chmod(0o700)
    with postgres_server(tmp_path / package.name / packaged_binaries().parent.name / "bin") as url:
        psycopg.connect(url).close()
