"""Data that is not part of the repository."""

from pathlib import Path

import pytest

from support.f1 import F1


@pytest.fixture
def f1() -> Path:
    """The folder of the Formula 1 data."""
    if not F1.is_dir():
        pytest.skip(f"the Formula 1 data are not there: {F1}")
    return F1
