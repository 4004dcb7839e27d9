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

# What waits for services of its own does so one after the other, beside all others.
SERVICES = {"api", "client", "demo", "service", "tasks", "tracking", "test_cli.py"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Two processes run side by side: one the tests of running services, the other file by file what computes."""
    for item in items:
        place = item.path.relative_to(Path(__file__).parent)
        item.add_marker(pytest.mark.xdist_group("services" if place.parts[0] in SERVICES else str(place)))
