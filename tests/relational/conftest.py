"""Data that is not part of the repository."""

from pathlib import Path

import pytest

from common import DATA


@pytest.fixture
def f1() -> Path:
    """The folder of the Formula 1 data."""
    folder = DATA / "f1"
    if not folder.is_dir():
        pytest.skip(f"the Formula 1 data are not there: {folder}")
    return folder
