"""Whoever waits for a learner, in tests."""

from collections.abc import Mapping

from tuneloop.relational.learner import Silent


class Listener(Silent):
    """Keeps what is reported."""

    def __init__(self) -> None:
        self.reported: list[Mapping[str, float]] = []

    def report(self, metrics: Mapping[str, float], *, step: int) -> None:
        self.reported.append(dict(metrics))
        assert step == len(self.reported)
