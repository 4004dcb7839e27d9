"""Every test has methods, batches and hashes of its own, as all share one MLflow."""

import itertools
import secrets
from collections.abc import Callable

import pytest

from tuneloop.tracking import Tracking


@pytest.fixture
def tracking(mlflow_uri: str) -> Tracking:
    return Tracking(mlflow_uri, retry_seconds=20)


@pytest.fixture
def method() -> str:
    """A name that tries what a name can do to a filter, a path or a pattern."""
    return f'it\'s "100%" _a/b\\ 中文 -- {secrets.token_hex(6)}'


@pytest.fixture
def batch() -> Callable[[], str]:
    numbers = itertools.count(1)
    return lambda: f"{next(numbers):024x}"
