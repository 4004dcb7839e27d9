"""Files that clients sent, kept by their content: the same file is stored once, under a name that nobody chose."""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from tuneloop.errors import InvalidInput
from tuneloop.relational.sources import SUFFIXES, UPLOAD

_PARQUET = b"PAR1"
_STALE_SECONDS = 86400
_UNFINISHED = ".part"


class Uploads:
    """The uploads of one installation, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def receive(self, chunks: Iterable[bytes], name: str) -> str:
        """Store a file while it arrives; its source, `upload:…`. It is there whole or not at all.

        Args:
            chunks: the bytes.
            name: what the client calls the file; its suffix says what it is.

        Raises:
            InvalidInput: it is neither Parquet nor CSV.
        """
        kind = SUFFIXES.get(Path(name).suffix.lower())
        if kind is None:
            raise InvalidInput(f"{name!r} is of no known kind: send a .parquet or .csv file", field="name")
        self.folder.mkdir(parents=True, exist_ok=True)
        self._remove_stale()
        digest = hashlib.sha256()
        descriptor, unfinished = tempfile.mkstemp(suffix=_UNFINISHED, dir=self.folder)
        path = Path(unfinished)
        try:
            with os.fdopen(descriptor, "wb") as file:
                for chunk in chunks:
                    digest.update(chunk)
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
            _check(path, kind)
            stored = self.folder / f"{digest.hexdigest()}.{kind}"
            path.replace(stored)
        except BaseException:
            with suppress(FileNotFoundError):
                path.unlink()
            raise
        return f"{UPLOAD}{stored.name}"

    def _remove_stale(self) -> None:
        """What a killed process left behind."""
        for path in self.folder.glob(f"*{_UNFINISHED}"):
            with suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > _STALE_SECONDS:
                    path.unlink()


def _check(path: Path, kind: str) -> None:
    size = path.stat().st_size
    if size == 0:
        raise InvalidInput("the file is empty")
    if kind == "parquet":
        with path.open("rb") as file:
            start = file.read(4)
            file.seek(max(size - 4, 0))
            if start != _PARQUET or file.read() != _PARQUET:
                raise InvalidInput("this is no whole Parquet file: send it again, or name it .csv")


def digest_of(path: Path) -> str:
    """The source that a local file has once it is uploaded."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return f"{UPLOAD}{digest}.{SUFFIXES[path.suffix.lower()]}"
