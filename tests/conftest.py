"""Fixtures shared by all tests; each family lives in a file of `support/`."""

import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes says nothing about the code.
settings.register_profile("no clock", deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("no clock")

pytest_plugins = ["support.databases", "support.mlflow", "support.models", "support.service"]

# A shell lets what it starts with & ignore Ctrl-C, and so would all that the tests start.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Each of these starts a service that its tests share; elsewhere a file is the smallest part that one process runs.
TOGETHER = {"api", "client"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What runs in one process: many tests wait for services, so two processes run side by side."""
    for item in items:
        place = item.path.relative_to(Path(__file__).parent)
        item.add_marker(pytest.mark.xdist_group(place.parts[0] if place.parts[0] in TOGETHER else str(place)))
