"""Writing a table to where it was asked for: whole or not at all, over what is there only where that is meant."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuneloop.errors import Conflict, InvalidInput
from tuneloop.relational.opening import first_line, identifier
from tuneloop.relational.outputs import Output

if TYPE_CHECKING:
    import duckdb
    import psycopg
    import pyarrow as pa

BATCH_ROWS = 10_000
Check = Callable[[], None]


def taken(output: Output) -> Conflict:
    """The error of an output that is there already."""
    return Conflict(f"{output.name} exists already: choose another output, or say overwrite to replace it")


def exists(output: Output) -> bool:
    """Whether something is there.

    Raises:
        InvalidInput: a database does not answer.
    """
    if output.path is not None and not output.path.exists():
        return False
    if output.kind == "duckdb":
        with _duckdb(output, read_only=True) as connection:
            return _duckdb_comment(connection, output) is not None
    if output.kind == "postgresql":
        with _postgresql(output) as connection:
            return _postgresql_comment(connection, output) is not None
    return True


def write_table(staged: Path, output: Output, *, mark: str, overwrite: bool, check: Check) -> None:
    """Make a table of a database of a Parquet file, in one transaction.

    Args:
        staged: the Parquet file.
        output: a table.
        mark: stays with the table as its comment; a table with this mark was written by an earlier try.
        overwrite: whether a table that is there is replaced.
        check: called often; raises to stop.

    Raises:
        Conflict: the table is there already.
    """
    write = _write_duckdb if output.kind == "duckdb" else _write_postgresql
    write(staged, output, mark, overwrite, check)


def write_file(staged: Path, part: Path, output: Output, check: Check) -> None:
    """Write a Parquet file as a file of the output's format, on disk when this returns.

    Args:
        staged: the Parquet file.
        part: what to write, beside the output.
        output: a file.
        check: called often; raises to stop.
    """
    import pyarrow.csv as pc
    import pyarrow.parquet as pq

    part.parent.mkdir(parents=True, exist_ok=True)
    with part.open("wb") as stream:
        file = pq.ParquetFile(staged)
        if output.kind == "csv":
            schema = _flat(file.schema_arrow.empty_table()).schema
            with pc.CSVWriter(stream, schema) as csv:
                for batch in _batches(file, check):
                    csv.write_table(_flat(batch))
        else:
            with pq.ParquetWriter(stream, file.schema_arrow) as parquet:
                for batch in _batches(file, check, rows=10 * BATCH_ROWS):
                    parquet.write_table(batch)
        stream.flush()
        os.fsync(stream.fileno())


def place(part: Path, output: Output) -> None:
    """Put a whole file in its place, where nothing may be.

    Raises:
        Conflict: something is there.
    """
    assert output.path is not None
    try:
        os.link(part, output.path)
    except FileExistsError:
        raise taken(output) from None
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EXDEV, errno.EMLINK):
            raise
        if output.path.exists():  # a file system without links
            raise taken(output) from None
        part.replace(output.path)


def _batches(file: Any, check: Check, rows: int = BATCH_ROWS) -> Iterator[pa.Table]:
    import pyarrow as pa

    for batch in file.iter_batches(rows):
        check()
        yield pa.Table.from_batches([batch])


def _flat(table: pa.Table) -> pa.Table:
    """The table with lists and structs as JSON, which CSV has no form for."""
    import pyarrow as pa

    for number, field in enumerate(table.schema):
        if pa.types.is_nested(field.type):
            texts = [None if value is None else json.dumps(value, default=str) for value in table[number].to_pylist()]
            table = table.set_column(number, field.name, pa.array(texts, pa.string()))
    return table


def _parts(output: Output, schema: str) -> tuple[str, str]:
    """Schema and name of a table."""
    found, _, name = output.table.rpartition(".")
    return found or schema, name


# -- DuckDB


@contextmanager
def _duckdb(
    output: Output, *, read_only: bool = False, path: Path | None = None
) -> Iterator[duckdb.DuckDBPyConnection]:
    import duckdb

    try:
        connection = duckdb.connect(str(path or output.path), read_only=read_only)
    except duckdb.Error as error:
        raise InvalidInput(f"{output.path} cannot be opened now: {first_line(error)}", field="output") from None
    with connection:
        yield connection


def _duckdb_comment(connection: duckdb.DuckDBPyConnection, output: Output) -> str | None:
    """The comment of the table, empty where it has none; None where there is no such table."""
    sql = "SELECT coalesce(comment, '') FROM duckdb_tables() WHERE schema_name = ? AND table_name = ?"
    sql += f" UNION ALL {sql.replace('table', 'view')}"
    row = connection.execute(sql, [*_parts(output, "main")] * 2).fetchone()
    return None if row is None else str(row[0])


def _write_duckdb(staged: Path, output: Output, mark: str, overwrite: bool, check: Check) -> None:
    assert output.path is not None
    schema, name = _parts(output, "main")
    check()
    new = not output.path.exists()
    part = output.path.with_name(f".{output.path.name}.{mark.rpartition(' ')[2]}.part")
    part.unlink(missing_ok=True)
    part.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _duckdb(output, path=part if new else None) as connection:
            connection.begin()
            there = _duckdb_comment(connection, output)
            if there == mark:
                return
            if there is not None and not overwrite:
                raise taken(output)
            source = str(staged).replace("'", "''")
            connection.execute(f"CREATE SCHEMA IF NOT EXISTS {identifier(schema)}")
            connection.execute(
                f"CREATE OR REPLACE TABLE {identifier(schema, name)} AS SELECT * FROM read_parquet('{source}')"
            )
            connection.execute(f"COMMENT ON TABLE {identifier(schema, name)} IS '{mark}'")
            connection.commit()
        if new:  # a killed process leaves no empty database behind
            place(part, output)
    finally:
        part.unlink(missing_ok=True)


# -- PostgreSQL


@contextmanager
def _postgresql(output: Output) -> Iterator[psycopg.Connection[Any]]:
    try:
        import psycopg
    except ImportError:
        raise InvalidInput("PostgreSQL needs an extra: pip install 'tuneloop[postgres]'", field="output") from None
    try:
        connection = psycopg.connect(output.url or "")
    except psycopg.Error as error:
        raise InvalidInput(f"the database does not answer: {first_line(error)}", field="output") from None
    with connection:
        yield connection


def _postgresql_comment(connection: psycopg.Connection[Any], output: Output) -> str | None:
    """The comment of the table, empty where it has none; None where there is no such table."""
    names = _parts(output, "public")
    sql = (
        "SELECT coalesce(obj_description(found, 'pg_class'), '') FROM to_regclass(%s) AS found WHERE found IS NOT NULL"
    )
    row = connection.execute(sql, [identifier(*names)]).fetchone()
    return None if row is None else str(row[0])


def _write_postgresql(staged: Path, output: Output, mark: str, overwrite: bool, check: Check) -> None:
    import psycopg
    import pyarrow.parquet as pq

    schema, name = _parts(output, "public")
    file = pq.ParquetFile(staged)
    table = identifier(schema, name)
    with _postgresql(output) as connection:
        there = _postgresql_comment(connection, output)
        if there == mark:
            return
        if there is not None and not overwrite:
            raise taken(output)
        try:
            columns = ", ".join(f"{identifier(field.name)} {_sql_type(field.type)}" for field in file.schema_arrow)
            _run(connection, f"DROP TABLE IF EXISTS {table}")
            _run(connection, f"CREATE TABLE {table} ({columns})")
            with connection.cursor() as cursor, cursor.copy(f"COPY {table} FROM STDIN".encode()) as copy:
                nested = [_sql_type(field.type) == "jsonb" for field in file.schema_arrow]
                for batch in _batches(file, check):
                    for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                        copy.write_row(
                            [_json(value) if deep else value for value, deep in zip(row, nested, strict=True)]
                        )
            _run(connection, f"COMMENT ON TABLE {table} IS '{mark}'")
        except psycopg.errors.DuplicateTable:
            raise taken(output) from None
        except psycopg.Error as error:
            raise InvalidInput(f"{output.name} cannot be written: {first_line(error)}", field="output") from None


def _run(connection: psycopg.Connection[Any], sql: str) -> None:
    connection.execute(sql.encode())


def _json(value: Any) -> str | None:
    return None if value is None else json.dumps(value, default=str)


def _sql_type(kind: pa.DataType) -> str:
    import pyarrow as pa

    known = [
        (pa.types.is_boolean, "boolean"),
        (pa.types.is_integer, "bigint"),
        (pa.types.is_floating, "double precision"),
        (pa.types.is_timestamp, "timestamp"),
        (pa.types.is_date, "date"),
        (pa.types.is_decimal, "numeric"),
    ]
    for is_kind, name in known:
        if is_kind(kind):
            return name
    if pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
        if pa.types.is_floating(kind.value_type):
            return "real[]"
        return "jsonb" if pa.types.is_nested(kind.value_type) else f"{_sql_type(kind.value_type)}[]"
    return "jsonb" if pa.types.is_nested(kind) else "text"


def remove(part: Path) -> None:
    """Delete a file that may be gone."""
    with suppress(OSError):
        part.unlink()
