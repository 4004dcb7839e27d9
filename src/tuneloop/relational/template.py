"""The query that makes a task's examples: checked, and run over the dataset's own tables and nothing else."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from tuneloop.errors import InvalidInput
from tuneloop.relational.opening import OpenTables, need_ibis

if TYPE_CHECKING:
    import ibis
    import pyarrow as pa

TIMES = "timestamps"  # the table of prediction times, as templates call it
HORIZON = "{horizon}"
# Tables that functions give and no file, database or setting is read for.
_SERIES = ("GenerateSeries", "Unnest", "Explode", "Posexplode")


class BadTemplate(InvalidInput):
    """A template that makes no task.

    Attributes:
        problem: what is wrong.
        fix: what to do about it.
        column: of the examples, where one is to blame.
    """

    def __init__(self, problem: str, fix: str, *, column: str | None = None) -> None:
        super().__init__(f"the template: {problem}: {fix}", field="dataset.task.template")
        self.problem = problem
        self.fix = fix
        self.column = column


class Template:
    """A SELECT in DuckDB's SQL over the tables of a dataset, `timestamps` and `{horizon}`.

    Args:
        text: the query.
        time_column: the column of `timestamps`.
        horizon: how far labels look ahead.
        data: the tables, by the names that the query calls them.

    Raises:
        BadTemplate: it is no single SELECT, or it reads something else than these tables.
    """

    def __init__(self, text: str, *, time_column: str, horizon: timedelta, data: OpenTables) -> None:
        self._text = text.strip().rstrip(";").replace(HORIZON, _interval(horizon))
        self._time_column = time_column
        self._data = data
        if TIMES in {name.lower() for name in data}:
            raise BadTemplate(f"a table of the dataset is called {TIMES}, as the prediction times are", "rename it")
        self._tree = _parse(self._text)
        self.reads = self._check()

    def _check(self) -> tuple[str, ...]:
        """The tables of the dataset that it reads."""
        from sqlglot import exp

        known = {name.lower(): name for name in self._data}
        inner = {each.alias_or_name.lower() for each in self._tree.find_all(exp.CTE)}
        found: dict[str, None] = {}
        for table in self._tree.find_all(exp.Table):
            if not isinstance(table.this, exp.Identifier):
                if type(table.this).__name__ not in _SERIES:
                    raise BadTemplate(
                        f"reads {table.this.sql('duckdb')}", f"read the dataset's tables: {', '.join(self._data)}"
                    )
                continue
            name = table.name.lower()
            if table.args.get("db") is not None or name not in {*known, *inner, TIMES}:
                raise BadTemplate(
                    f"reads {_named(table)}, which is no table of the dataset",
                    f"read {', '.join(self._data)} or {TIMES}, by these names alone",
                )
            if name in known and name not in inner:
                found[known[name]] = None
        self._check_columns(known, inner)
        if not self._data.is_local:
            for function in self._tree.find_all(exp.Anonymous):  # such as those of PostgreSQL that read files
                raise BadTemplate(
                    f"calls {function.name}, which is unknown here", "use functions of standard SQL in a database"
                )
        return tuple(found)

    def _check_columns(self, known: Mapping[str, str], inner: set[str]) -> None:
        """Columns that are named with their table: what engines say of them misleads."""
        from sqlglot import exp

        means: dict[str, set[str]] = {}
        for each in self._tree.find_all(exp.Table, exp.Subquery, exp.CTE):
            name = each.name.lower() if isinstance(each, exp.Table) else ""
            means.setdefault(each.alias_or_name.lower(), set()).add("" if name in inner else known.get(name, ""))
        for column in self._tree.find_all(exp.Column):
            tables = means.get(column.table.lower(), {""})
            if len(tables) > 1 or not (table := next(iter(tables))) or isinstance(column.this, exp.Star):
                continue
            names = {name.lower(): name for name in self._data[table].columns}
            if column.name.lower() not in names:
                close = difflib.get_close_matches(column.name.lower(), names, n=1)
                raise BadTemplate(
                    f"reads {column.sql('duckdb')}, and {table} has no such column",
                    f"did you mean {names[close[0]]}?" if close else f"name one of {', '.join(names.values())}",
                )

    def run(self, times: Sequence[datetime]) -> pa.Table:
        """The examples at these times.

        Raises:
            BadTemplate: the engine refuses it, or fails over the data.
        """
        try:
            return self._run(times)
        except Exception as error:  # each engine has errors of its own
            raise BadTemplate(_said(error), "mend the query") from None

    def _run(self, times: Sequence[datetime]) -> pa.Table:
        from sqlglot import exp

        engine: Any = self._data.engine
        dialect = "duckdb" if self._data.is_local else engine.dialect
        values = ", ".join(f"(TIMESTAMP '{time:%Y-%m-%d %H:%M:%S.%f}')" for time in times)
        column = exp.to_identifier(self._time_column, quoted=True).sql(dialect)
        within = [f"{TIMES}({column}) AS (VALUES {values})"]
        for name in self.reads:
            rows = need_ibis().to_sql(_plain(self._data[name]), dialect=engine.name)
            quoted = exp.to_identifier(name, quoted=True).sql(dialect)
            within.append(f"{quoted} AS {'NOT MATERIALIZED ' if self._data.is_local else ''}({rows})")
        spelt = None if self._data.is_local else _exactly(self._tree, self._data, self._time_column)
        query = self._text if spelt is None else spelt.sql(dialect)
        return _answer(engine, f"WITH {', '.join(within)} SELECT * FROM (\n{query}\n) AS examples")


def _parse(text: str) -> Any:
    import sqlglot
    from sqlglot import exp

    try:
        found = [each for each in sqlglot.parse(text, read="duckdb") if each is not None]
    except sqlglot.errors.SqlglotError as error:
        said = str(error).splitlines()[0].replace("\x1b[4m", "").replace("\x1b[0m", "")
        raise BadTemplate(f"is no SQL: {said}", "write one SELECT") from None
    if len(found) != 1 or not isinstance(found[0], exp.Query):
        raise BadTemplate("is not one SELECT", "write one SELECT that gives the examples, and nothing else")
    return found[0]


def _named(table: Any) -> str:
    return ".".join(part for part in (table.catalog, table.db, table.name) if part)


def _exactly(tree: Any, data: OpenTables, time_column: str) -> Any:
    """The query with names as the tables spell them: DuckDB takes any case, other engines do not."""
    from sqlglot import exp

    names = [*data, time_column, *(column for table in data.values() for column in table.columns)]
    spelt = {name.lower(): name for name in names}

    def spell(node: Any) -> Any:
        if isinstance(node, exp.Identifier) and node.name.lower() in spelt:
            return exp.to_identifier(spelt[node.name.lower()], quoted=True)
        return node

    return tree.transform(spell)


def _plain(table: ibis.Table) -> ibis.Table:
    """A table whose times bear no time zone, as features read them."""
    zoned: Mapping[str, Any] = {
        name: table[name].cast("timestamp")
        for name, kind in table.schema().items()
        if kind.is_timestamp() and kind.timezone is not None
    }
    return table.mutate(**zoned) if zoned else table


def _answer(engine: Any, query: str) -> pa.Table:
    import pyarrow as pa

    if engine.name == "duckdb":
        return engine.con.sql(query).to_arrow_table()
    with closing(engine.raw_sql(query)) as cursor:
        names = [column[0] for column in cursor.description]
        rows = cursor.fetchall()
    with suppress(AttributeError):
        engine.con.rollback()
    return pa.table({name: pa.array([row[at] for row in rows]) for at, name in enumerate(names)})


def _interval(horizon: timedelta) -> str:
    whole = not (horizon.seconds or horizon.microseconds)
    return f"INTERVAL '{horizon.days} days'" if whole else f"INTERVAL '{horizon.total_seconds():f} seconds'"


def _said(error: BaseException) -> str:
    """What the engine says of it: the first line, and which columns it knows."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    hints = [line for line in lines[1:] if line.startswith(("Candidate bindings", "Did you mean", "HINT"))]
    return "; ".join([lines[0], *hints[:1]])
