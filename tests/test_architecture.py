"""What the import-linter contract cannot see: what is really loaded, and that no room is missing from it."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = {"torch", "transformers", "sentence_transformers", "sklearn", "scipy", "ibis", "duckdb", "pandas"}


@pytest.mark.parametrize(
    "module",
    [
        "tuneloop.api.app",
        "tuneloop.client",
        "tuneloop.cli",
        "tuneloop.demo",
        "tuneloop.search.metrics",
        "tuneloop.relational",
        "tuneloop.methods.contract",
        "tuneloop.methods.registry",
        "tuneloop.methods.snapshot",
        "tuneloop.service.up",
    ],
)
def test_what_must_start_fast_loads_nothing_heavy(module: str) -> None:
    script = f"import {module}, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert HEAVY & set(done.stdout.split()) == set()


def test_every_room_has_its_arrows_in_the_contract() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contracts = config["tool"]["importlinter"]["contracts"]
    protected = {module for each in contracts for module in each.get("protected_modules", [])}
    package = ROOT / "src" / "tuneloop"
    rooms = {f"tuneloop.{folder.name}" for folder in package.iterdir() if (folder / "__init__.py").exists()}
    assert rooms - protected == {"tuneloop.migrations"}  # database.py's own, loaded by Alembic


def test_the_arrows_hold() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
