"""Which files Tuneloop's runs stored: the only ones that inference loads."""

import hashlib
from pathlib import Path

import sqlalchemy as sa

from tuneloop.database import Database
from tuneloop.errors import Conflict
from tuneloop.ids import now_micros
from tuneloop.models.tables import stored_models


class StoredModels:
    """The SHA-256 of every file of every model that a run stored."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def record(self, run_id: str, folder: Path) -> None:
        """Remember the files of the model in `folder` as those of the run; replaces what was remembered."""
        values = {"files": digests(folder), "stored_at": now_micros()}
        with self._database.write() as connection:
            changed = connection.execute(
                sa.update(stored_models).where(stored_models.c.run_id == run_id).values(**values)
            )
            if not changed.rowcount:
                connection.execute(sa.insert(stored_models).values(run_id=run_id, **values))

    def known(self, run_id: str) -> bool:
        """Whether a run of ours stored a model under this id."""
        return self._files(run_id) is not None

    def verify(self, run_id: str, folder: Path) -> None:
        """Make sure that the files in `folder` are exactly those that the run stored.

        Raises:
            Conflict: the run stored no model, or a file is missing, added or changed.
        """
        expected = self._files(run_id)
        if expected is None:
            raise Conflict(
                f"the model of run {run_id} was not stored by Tuneloop: only what a Tuneloop run stored is loaded"
            )
        found = digests(folder)
        if found != expected:
            differing = sorted(path for path in expected.keys() | found.keys() if expected.get(path) != found.get(path))
            raise Conflict(
                f"the model of run {run_id} is not what Tuneloop stored and is not loaded; differing: "
                + ", ".join(differing[:5])
            )

    def _files(self, run_id: str) -> dict[str, str] | None:
        with self._database.read() as connection:
            row = connection.execute(
                sa.select(stored_models.c.files).where(stored_models.c.run_id == run_id)
            ).one_or_none()
        return None if row is None else dict(row.files)


def digests(folder: Path) -> dict[str, str]:
    """The SHA-256, in hex, of each file below `folder` by its path, with slashes."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as stream:
                found[path.relative_to(folder).as_posix()] = hashlib.file_digest(stream, "sha256").hexdigest()
    return found
