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
    """The tests of tasks, which mostly wait, are spread among those that compute: each needs what the other leaves."""
    files = list(dict.fromkeys(item.path for item in items))
    waiting = [path for path in files if path.parent.name == "tasks"]
    others = [path for path in files if path.parent.name != "tasks"]
    place = {path: number / len(group) for group in (waiting, others) for number, path in enumerate(group)}
    items.sort(key=lambda item: place[item.path])
