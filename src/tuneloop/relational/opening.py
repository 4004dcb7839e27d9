"""Tables as Ibis expressions, all in one engine: the database they all lie in, or DuckDB."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuneloop.errors import InvalidInput
from tuneloop.relational.sources import Location, Sources

if TYPE_CHECKING:
    import ibis
    import pyarrow as pa
    from ibis.backends import BaseBackend


class OpenTables(Mapping[str, "ibis.Table"]):
    """Tables by name, in the engine that computes with them.

    Attributes:
        engine: it.
        problems: why other tables could not be opened.
        last: what was asked of them last that may be asked again, and the answer.
    """

    def __init__(self, engine: BaseBackend, tables: Mapping[str, ibis.Table], problems: Mapping[str, str]) -> None:
        self.engine = engine
        self.problems = dict(problems)
        self.last: tuple[Any, Any] | None = None
        self._tables = dict(tables)

    def __getitem__(self, name: str) -> ibis.Table:
        return self._tables[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tables)

    def __len__(self) -> int:
        return len(self._tables)

    def bring(self, rows: pa.Table | ibis.Table, name: str) -> ibis.Table:
        """Rows of ours, or what an expression gives, as a temporary table of the engine, for this session alone.

        Args:
            rows: what it holds.
            name: what its name begins with.
        """
        import ibis

        name = ibis.util.gen_name(name)
        engine: Any = self.engine
        with self._writing():
            if isinstance(rows, ibis.Table):
                return engine.create_table(name, rows, temp=True)
            found = engine.create_table(name, schema=ibis.schema(rows.schema), temp=True)
            engine.insert(name, rows)
        return found

    def drop(self, brought: ibis.Table) -> None:
        """Give up a table that `bring` made."""
        engine: Any = self.engine
        with self._writing():
            dropped = engine.raw_sql(f'DROP TABLE "{brought.op().name}"')
            if not self.is_local:
                dropped.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """While a temporary table is made: a session that only reads lets nobody make one."""
        if self.engine.name != "postgres":
            yield
            return
        _read_only(self.engine, "off")
        try:
            yield
        finally:
            _read_only(self.engine, "on")

    def place(self, rows: ibis.Table) -> str | None:
        """What SQL calls a table that lies in DuckDB; None for an expression, and where another engine computes."""
        from ibis.expr.operations import DatabaseTable

        table = rows.op()
        if not self.is_local or not isinstance(table, DatabaseTable):
            return None
        names = (table.namespace.catalog, table.namespace.database, table.name)
        return identifier(*(name for name in names if name is not None))

    def answer(self, sql: str) -> pa.Table:
        """What DuckDB answers to SQL that Ibis wrote."""
        engine: Any = self.engine
        found: pa.Table = engine.con.sql(sql).to_arrow_table()
        return found

    @property
    def is_local(self) -> bool:
        """Whether DuckDB computes here."""
        return bool(self.engine.name == "duckdb")


@contextmanager
def open_tables(
    wanted: Mapping[str, str], sources: Sources, *, memory_gb: float | None = None, threads: int | None = None
) -> Iterator[OpenTables]:
    """Open tables for reading.

    Where all are in one PostgreSQL, Snowflake or BigQuery, that engine computes and only results travel. Otherwise
    DuckDB does, within the memory given: it reads files where they are, and databases' tables once.

    Args:
        wanted: sources by the names that the tables get.
        sources: what they mean.
        memory_gb: what DuckDB may use, in GiB; it spills to disk beyond.
        threads: what DuckDB may use; all cores by default.

    Yields:
        The tables that could be opened; `problems` says why the others could not.
    """
    ibis = need_ibis()
    found, problems = _locate(wanted, sources)
    addresses = {location.url for location in found.values()}
    if len(addresses) == 1 and (url := addresses.pop()) is not None and not problems:
        engine = connect(url)
        try:
            tables = _each(found, lambda name: remote_table(engine, found[name].table or ""), problems)
            yield OpenTables(engine, tables, problems)
        finally:
            engine.disconnect()
        return
    with tempfile.TemporaryDirectory(prefix="tuneloop-") as folder:
        engine = ibis.duckdb.connect()
        try:
            _limit(engine, Path(folder), memory_gb, threads)
            tables = _each(found, lambda name: _in_duckdb(engine, name, found[name], found), problems)
            _lock(engine, found.values(), Path(folder))
            yield OpenTables(engine, tables, problems)
        finally:
            engine.disconnect()


def _locate(wanted: Mapping[str, str], sources: Sources) -> tuple[dict[str, Location], dict[str, str]]:
    found, problems = {}, {}
    for name, source in wanted.items():
        try:
            found[name] = sources.locate(source)
        except InvalidInput as error:
            problems[name] = error.detail
    return found, problems


def _each(names: Iterable[str], open_one: Any, problems: dict[str, str]) -> dict[str, ibis.Table]:
    tables = {}
    for name in names:
        try:
            tables[name] = open_one(name)
        except InvalidInput as error:
            problems[name] = error.detail
        except Exception as error:  # each engine has errors of its own
            problems[name] = f"cannot be read: {first_line(error)}"
    return tables


def first_line(error: BaseException) -> str:
    """What an engine's error says, without its hints, positions and passwords."""
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return re.sub(r"://[^@\s/]+@", "://…@", text)


def identifier(*names: str) -> str:
    """A name in SQL: of a column, or of a table with its schema and catalog before it."""
    return ".".join('"' + name.replace('"', '""') + '"' for name in names)


# -- DuckDB


def _limit(engine: Any, folder: Path, memory_gb: float | None, threads: int | None) -> None:
    engine.raw_sql(f"SET temp_directory={_quoted(str(folder))}")
    engine.raw_sql("SET preserve_insertion_order=false")
    if memory_gb is not None:
        engine.raw_sql(f"SET memory_limit='{memory_gb:.3f}GiB'")
    if threads is not None:
        engine.raw_sql(f"SET threads={threads:d}")


def _lock(engine: Any, locations: Iterable[Location], folder: Path) -> None:
    """From here on nothing but these files is read, whatever SQL says."""
    files = [str(file) for location in locations if location.path is not None for file in location.files]
    engine.raw_sql(f"SET allowed_paths=[{', '.join(map(_quoted, files))}]")
    engine.raw_sql(f"SET allowed_directories=[{_quoted(str(folder))}]")
    engine.raw_sql("SET enable_external_access=false")
    engine.raw_sql("SET lock_configuration=true")


def _in_duckdb(engine: Any, name: str, location: Location, all_found: Mapping[str, Location]) -> ibis.Table:
    if location.kind == "duckdb":
        catalog = f"file_{list(all_found).index(name)}"
        same = [n for n, each in all_found.items() if each.kind == "duckdb" and each.path == location.path]
        if same[0] == name:
            engine.attach(str(location.path), name=catalog, read_only=True)
        else:  # DuckDB opens a file once
            catalog = f"file_{list(all_found).index(same[0])}"
        schema, _, table = (location.table or "").rpartition(".")
        return engine.table(table, database=(catalog, schema or "main"))
    if location.kind == "database":
        import pyarrow as pa

        assert location.url is not None
        remote = connect(location.url)
        try:
            data = remote_table(remote, location.table or "")
            copy = engine.create_table(name, schema=data.schema())
            for batch in data.to_pyarrow_batches():
                engine.insert(name, pa.Table.from_batches([batch]))
            return copy
        finally:
            remote.disconnect()
    read = engine.read_csv if location.kind == "csv" else engine.read_parquet
    return read([str(file) for file in location.files], table_name=name)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


# -- other engines


def connect(url: str) -> BaseBackend:
    """A connection that only reads, by a database's address.

    Raises:
        InvalidInput: its driver is not installed, or it does not answer.
    """
    ibis = need_ibis()
    try:
        engine = ibis.connect(url)
        if engine.name == "postgres":
            _read_only(engine, "on")
    except (ImportError, ModuleNotFoundError) as error:
        raise InvalidInput(f"{first_line(error)}: install the driver, such as ibis-framework[snowflake]") from None
    except Exception as error:
        raise InvalidInput(f"the database does not answer: {first_line(error)}") from None
    return engine


def _read_only(engine: Any, state: str) -> None:
    """Whether a PostgreSQL session may write: `on` or `off`."""
    engine.con.commit()
    engine.raw_sql(f"SET default_transaction_read_only = {state}").close()
    engine.con.commit()


def remote_table(engine: Any, name: str) -> ibis.Table:
    """A table by its name, perhaps with its schema and catalog: `public.customers`."""
    place, _, table = name.rpartition(".")
    return engine.table(table, database=tuple(place.split(".")) if "." in place else place or None)


def need_ibis() -> Any:
    """Ibis, imported when tables are opened.

    Raises:
        InvalidInput: it is not installed.
    """
    try:
        import ibis
    except ImportError:
        raise InvalidInput("learning from tables needs an extra: pip install 'tuneloop[tables]'") from None
    return ibis
