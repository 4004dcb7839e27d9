"""Which files inference may load."""

import shutil
from pathlib import Path

import pytest

from tuneloop.database import Database
from tuneloop.errors import Conflict
from tuneloop.models.store import StoredModels


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = tmp_path / "model"
    (model / "part").mkdir(parents=True)
    (model / "MLmodel").write_text("flavors: {}")
    (model / "part" / "weights").write_bytes(b"\0" * 5000)
    return model


def test_what_was_recorded_is_verified(database: Database, folder: Path) -> None:
    stored = StoredModels(database)
    assert not stored.known("r1")
    with pytest.raises(Conflict, match="not stored by Tuneloop"):
        stored.verify("r1", folder)
    stored.record("r1", folder)
    assert stored.known("r1") and not stored.known("r2")
    stored.verify("r1", folder)
    (folder / "MLmodel").write_text("flavors: {more}")
    stored.record("r1", folder)
    stored.verify("r1", folder)


@pytest.mark.parametrize("change", ["changed", "added", "missing", "moved"])
def test_whatever_differs_is_refused_and_named(database: Database, folder: Path, change: str) -> None:
    stored = StoredModels(database)
    stored.record("r1", folder)
    if change == "changed":
        (folder / "part" / "weights").write_bytes(b"\0" * 4999 + b"\1")
    elif change == "added":
        (folder / "part" / "weights.pkl").touch()
    elif change == "missing":
        (folder / "part" / "weights").unlink()
    else:
        shutil.move(folder / "part" / "weights", folder / "weights")
    with pytest.raises(Conflict, match="weights"):
        stored.verify("r1", folder)
