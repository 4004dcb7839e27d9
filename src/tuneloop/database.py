"""The database: one engine over SQLite or PostgreSQL, its transactions, its migrations."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.dialects import postgresql, sqlite

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# An id from outside; ordered by code point in both databases, so that cursors mean the same.
OpaqueId = sa.String(512).with_variant(sa.String(512, collation="C"), "postgresql")
# 24 hex digits of our own.
OwnId = sa.String(24)
# Microseconds since 1970, UTC.
Micros = sa.BigInteger
# A number that grows with every row (SQLite only counts up in a plain INTEGER key).
Sequence = sa.BigInteger().with_variant(sa.Integer, "sqlite")

# How long a statement waits for SQLite's lock.
BUSY_SECONDS = 60


class Database:
    """Transactions on SQLite or PostgreSQL.

    A write transaction on SQLite takes the write lock when it begins, so that what it reads stays true
    until it commits; on PostgreSQL lock the rows you decide upon (`with_for_update`).
    """

    def __init__(self, url: str) -> None:
        if url.startswith(("postgresql://", "postgres://")):  # the driver in our `postgres` extra is psycopg 3
            url = "postgresql+psycopg://" + url.partition("://")[2]
        self.is_sqlite = url.startswith("sqlite")
        options: dict[str, Any] = (
            {"connect_args": {"timeout": BUSY_SECONDS}} if self.is_sqlite else {"pool_pre_ping": True}
        )
        self.engine = sa.create_engine(url, pool_size=20, max_overflow=40, hide_parameters=True, **options)
        self._write_lock = threading.Lock() if self.is_sqlite else nullcontext()
        if self.is_sqlite:
            event.listen(self.engine, "connect", _prepare_sqlite)
            event.listen(self.engine, "begin", _begin_sqlite)

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A transaction that sees one state of the database."""
        with self.engine.connect() as connection:
            if not self.is_sqlite:
                connection = connection.execution_options(isolation_level="REPEATABLE READ")
            with connection.begin():
                yield connection

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """A transaction that is on disk when the block ends, and undone when it raises."""
        with self._write_lock, self.engine.connect() as connection:
            if self.is_sqlite:
                connection = connection.execution_options(sqlite_begin="IMMEDIATE")
            with connection.begin():
                yield connection

    def scrub(self) -> None:
        """Remove what deleted rows left behind in SQLite's write-ahead log.

        A transaction that still reads the log keeps it; call this again later.
        """
        if not self.is_sqlite:
            return
        with self._write_lock, self.engine.connect() as connection:
            driver: Any = connection.connection.driver_connection
            driver.execute("PRAGMA busy_timeout=2000")
            driver.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            driver.execute(f"PRAGMA busy_timeout={BUSY_SECONDS * 1000}")

    def migrate(self) -> None:
        """Bring the schema to this version; does nothing when it is there already."""
        from alembic import command
        from alembic.config import Config

        if self.is_sqlite and self.engine.url.database:
            Path(self.engine.url.database).parent.mkdir(parents=True, exist_ok=True)
        config = Config()
        config.set_main_option("script_location", "tuneloop:migrations")
        with self.write() as connection:
            if not self.is_sqlite:  # parts that start together take turns
                connection.execute(sa.text("SELECT pg_advisory_xact_lock(7164005)"))
            config.attributes["connection"] = connection
            command.upgrade(config, "head")

    def dispose(self) -> None:
        """Close the pooled connections."""
        self.engine.dispose()


def insert(connection: sa.Connection, table: sa.Table) -> sqlite.Insert | postgresql.Insert:
    """An INSERT that has `on_conflict_do_nothing` and `on_conflict_do_update`, for the database at hand."""
    return sqlite.insert(table) if connection.dialect.name == "sqlite" else postgresql.insert(table)


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # SQLAlchemy's `begin` event says BEGIN, not the driver
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "secure_delete=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: sa.Connection) -> None:
    connection.exec_driver_sql(f"BEGIN {connection.get_execution_options().get('sqlite_begin', 'DEFERRED')}")
