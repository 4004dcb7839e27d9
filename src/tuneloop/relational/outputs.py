"""Where tables may be written: what an output means, and whether it may be written there."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tuneloop.errors import InvalidInput
from tuneloop.relational.sources import DATABASES, is_path, split_path

_FILES: dict[str, Literal["parquet", "csv"]] = {".parquet": "parquet", ".pq": "parquet", ".csv": "csv"}
_BARE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._ -]{0,199}")
_POSTGRESQL = ("postgresql://", "postgres://")


@dataclass(frozen=True)
class Output:
    """A place that may be written to.

    Attributes:
        name: the whole of it, as a person is told.
        kind: a file of one format, a table of a DuckDB file, or one of a PostgreSQL database.
        path: of the file.
        url: the database's address, with whatever it takes to log in.
        table: the name within a database, perhaps with its schema: `public.customers`.
    """

    name: str
    kind: Literal["parquet", "csv", "duckdb", "postgresql"]
    path: Path | None = None
    url: str | None = None
    table: str = ""


class Outputs:
    """Which places may be written to, and what they mean.

    Args:
        folder: for outputs that are bare names, a folder of its own.
        roots: the folders that tables lie in.
        connections: databases by the names that outputs call them.
        writable: the connections that may be written to.
        closed: folders below the roots that hold something else.
    """

    def __init__(
        self,
        folder: Path,
        *,
        roots: Sequence[Path] = (),
        connections: Mapping[str, str] | None = None,
        writable: Collection[str] = (),
        closed: Sequence[Path] = (),
    ) -> None:
        self._folder = folder.resolve()
        self._roots = [root.resolve() for root in roots]
        self._connections = dict(connections or {})
        self._writable = frozenset(writable)
        self._closed = [each.resolve() for each in closed]

    def locate(self, output: str) -> Output:
        """What an output means: a `.parquet` or `.csv` file, `shop.duckdb#scores`, `connection#schema.table`; a bare
        name is one in the service's own folder.

        Raises:
            InvalidInput: nothing may be written there, or it is of no known kind.
        """
        place, mark, table = output.partition("#")
        if place in self._connections:
            return self._locate_table(place, table)
        if not is_path(output):
            known = ", ".join(sorted(self._writable)) or "there are none: see TUNELOOP_TABLE_WRITABLE"
            raise InvalidInput(
                f"{output!r} is no place to write to: name a .parquet or .csv file, file.duckdb#table, or a table of a"
                f" connection that may be written to ({known})",
                field="output",
            )
        named, _ = split_path(output)
        suffix = named.suffix.lower()
        if mark and not table:
            raise InvalidInput(f"name a table of it, as in {place}#predictions", field="output")
        if not mark and suffix in DATABASES:
            raise InvalidInput(
                f"{output} is a database: name a table of it, as in {named.name}#predictions", field="output"
            )
        if not mark and suffix not in _FILES:
            raise InvalidInput(f"{output!r} is of no known kind: write .parquet, .csv or .duckdb#table", field="output")
        path = self._permitted(named)
        if mark:
            return Output(f"{path}#{table}", "duckdb", path=path, table=table)
        return Output(str(path), _FILES[suffix], path=path)

    def _locate_table(self, name: str, table: str) -> Output:
        if name not in self._writable:
            raise InvalidInput(
                f"the connection {name} is only read from: set TUNELOOP_TABLE_WRITABLE={name} to write to it",
                field="output",
            )
        if not table:
            raise InvalidInput(f"name a table of the connection {name}: {name}#schema.table", field="output")
        url = self._connections[name]
        if not url.startswith(_POSTGRESQL):
            raise InvalidInput(
                f"the connection {name} is no PostgreSQL: tables are written to PostgreSQL, DuckDB, Parquet and CSV",
                field="output",
            )
        return Output(f"{name}#{table}", "postgresql", url=url, table=table)

    def _permitted(self, path: Path) -> Path:
        """The path with every link in it followed."""
        if path.name == str(path):
            if not _BARE.fullmatch(path.name):
                raise InvalidInput(
                    f"{path.name!r} is no name for a file: use letters, digits, `.`, `_`, `-`", field="output"
                )
            return self._folder / path.name
        try:
            path = path.resolve()
            allowed = path.is_relative_to(self._folder) or any(self._opens(root, path) for root in self._roots)
            ready = allowed and path.parent.is_dir() and not path.is_dir()
        except (OSError, ValueError) as error:
            raise InvalidInput(f"{str(path)!r} is no path: {error}", field="output") from None
        if not allowed:
            roots = ", ".join(map(str, self._roots)) or "none are set"
            raise InvalidInput(
                f"{path} lies outside the folders that tables are written to (TUNELOOP_TABLE_ROOTS: {roots}): "
                "a bare name is kept by the service, to be downloaded",
                field="output",
            )
        if not ready:
            problem = "is a folder" if path.is_dir() else f"cannot be written: there is no folder {path.parent}"
            raise InvalidInput(f"{path} {problem}", field="output")
        return path

    def _opens(self, root: Path, path: Path) -> bool:
        """Whether a path lies under a root, and in no closed folder below that."""
        below = [each for each in self._closed if each.is_relative_to(root)]
        return path.is_relative_to(root) and not any(path.is_relative_to(each) for each in below)
