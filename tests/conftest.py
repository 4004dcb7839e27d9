"""Fixtures shared by all tests; each family lives in a file of `support/`."""

import signal

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes says nothing about the code.
settings.register_profile("no clock", deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("no clock")

pytest_plugins = ["support.databases", "support.mlflow", "support.models", "support.service"]

# A shell lets what it starts with & ignore Ctrl-C, and so would all that the tests start.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take longest come first, so that both processes end at about the same time."""
    items.sort(key=lambda item: item.path.parent.name != "tasks")
