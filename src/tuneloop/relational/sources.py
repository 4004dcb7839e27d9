"""Where tables lie: what a source means, and whether it may be read."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tuneloop.errors import InvalidInput

SUFFIXES = {".parquet": "parquet", ".pq": "parquet", ".csv": "csv", ".tsv": "csv"}
DATABASES = (".duckdb", ".ddb")
UPLOAD = "upload:"
_UPLOADED = re.compile(r"[0-9a-f]{64}\.(parquet|csv)")
_URL = re.compile(r"([a-z][a-z0-9+.-]*://[^#]+)#(.+)", re.DOTALL)
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)


def is_path(source: str) -> bool:
    """Whether a source is a path, perhaps of a table in a DuckDB file: no upload, no address, no connection."""
    place, mark, _ = source.partition("#")
    if source.startswith(UPLOAD) or _ADDRESS.match(source):
        return False
    return not mark or Path(place).suffix.lower() in DATABASES


def split_path(source: str) -> tuple[Path, str]:
    """The file of a source that is a path, and what names a table in it: `#customers`, or nothing."""
    place, mark, table = source.partition("#")
    return Path(place), mark + table


@dataclass(frozen=True)
class Location:
    """A source that may be read.

    Attributes:
        kind: a table in files of one format, in a DuckDB file, or in a database that an address leads to.
        path: of the files or the DuckDB file.
        url: the database's address, with whatever it takes to log in.
        table: the name within a database, perhaps with its schema: `public.customers`.
    """

    kind: Literal["parquet", "csv", "duckdb", "database"]
    path: Path | None = None
    url: str | None = None
    table: str | None = None

    @property
    def files(self) -> list[Path]:
        """The files of a table: its own, or all of its folder."""
        assert self.path is not None
        if not self.path.is_dir():
            return [self.path]
        return sorted(path for path in self.path.rglob("*") if SUFFIXES.get(path.suffix.lower()) == self.kind)


class Sources:
    """Which sources may be read, and what they mean.

    Args:
        roots: the folders that tables may lie in; None for any place, as in a script of one's own.
        connections: databases by the names that sources call them.
        uploads: the folder of what clients sent.
    """

    def __init__(
        self,
        *,
        roots: Sequence[Path] | None = None,
        connections: Mapping[str, str] | None = None,
        uploads: Path | None = None,
    ) -> None:
        self._roots = None if roots is None else [root.resolve() for root in roots]
        self._connections = dict(connections or {})
        self._uploads = uploads

    def and_under(self, folder: Path) -> Sources:
        """These, and what lies under one more folder, such as files of our own making."""
        roots = None if self._roots is None else [*self._roots, folder]
        return Sources(roots=roots, connections=self._connections, uploads=self._uploads)

    def locate(self, source: str) -> Location:
        """What a source means: a file, a folder of Parquet files, `shop.duckdb#customers`, `connection#schema.table`,
        `postgresql://…#schema.table` where there are no roots, or an upload.

        Raises:
            InvalidInput: it lies where nothing may be read, is not there, or is of no known kind.
        """
        if source.startswith(UPLOAD):
            return self._locate_upload(source.removeprefix(UPLOAD))
        if _ADDRESS.match(source):
            return self._locate_address(source)
        place, mark, table = source.partition("#")
        if place in self._connections:
            if not table:
                raise InvalidInput(f"name a table of the connection {place}: {place}#schema.table")
            return Location("database", url=self._connections[place], table=table)
        if not is_path(source):
            raise InvalidInput(
                f"{place!r} is neither a DuckDB file nor a connection "
                f"({', '.join(sorted(self._connections)) or 'there are none: see TUNELOOP_TABLE_CONNECTIONS'})"
            )
        path = self._permitted(Path(place))
        if mark:
            return Location("duckdb", path=path, table=table)
        return Location(_format(path), path=path)

    def _locate_upload(self, name: str) -> Location:
        if self._uploads is None or not _UPLOADED.fullmatch(name) or not (self._uploads / name).is_file():
            raise InvalidInput(f"there is no upload {UPLOAD}{name}: send the file again")
        path = self._uploads / name
        return Location(_format(path), path=path)

    def _locate_address(self, source: str) -> Location:
        if self._roots is not None:
            raise InvalidInput(
                "a service reads databases by the names of its connections: "
                "set TUNELOOP_TABLE_CONNECTIONS=shop=postgresql://… and write shop#schema.table"
            )
        match = _URL.fullmatch(source)
        if match is None:
            raise InvalidInput("an address also names the table: postgresql://…#schema.table")
        return Location("database", url=match[1], table=match[2])

    def _permitted(self, path: Path) -> Path:
        """The path with every link in it followed."""
        if any(char in str(path) for char in "*?[]"):
            raise InvalidInput(f"{path}: name a file or a folder, without *, ? and [")
        try:
            path = path.resolve()
            within = self._roots is None or any(path.is_relative_to(root) for root in self._roots)
            there = within and path.exists()
        except (OSError, ValueError) as error:
            raise InvalidInput(f"{str(path)!r} is no path: {error}") from None
        if not within:
            roots = ", ".join(map(str, self._roots or ())) or "none are set"
            raise InvalidInput(
                f"{path} lies outside the folders that tables are read from (TUNELOOP_TABLE_ROOTS: {roots})"
            )
        if not there:
            raise InvalidInput(f"there is no file {path}")
        if path.is_dir() and self._roots is not None:
            for inner in path.rglob("*"):
                if not any(inner.resolve().is_relative_to(root) for root in self._roots):
                    raise InvalidInput(f"{inner} leads out of the folders that tables are read from")
        return path


def _format(path: Path) -> Literal["parquet", "csv"]:
    if path.is_dir():
        kinds = {SUFFIXES[inner.suffix.lower()] for inner in path.rglob("*") if inner.suffix.lower() in SUFFIXES}
        if len(kinds) != 1:
            raise InvalidInput(
                f"{path} is a folder with {'both Parquet and CSV' if kinds else 'no Parquet or CSV'} files"
            )
        return "csv" if kinds == {"csv"} else "parquet"
    suffix = path.suffix.lower()
    if suffix in DATABASES:
        raise InvalidInput(f"{path} is a database: name a table of it, as in {path.name}#customers")
    if suffix not in SUFFIXES:
        raise InvalidInput(f"{path} is of no known kind: tables are .parquet, .csv or .duckdb files, or in a database")
    return "csv" if SUFFIXES[suffix] == "csv" else "parquet"
