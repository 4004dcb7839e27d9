"""What an iteration is asked to do, how it is followed, and what it comes to."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from tuneloop.methods.contract import Direction, Method, MethodSettings
from tuneloop.methods.snapshot import Snapshot

T = TypeVar("T")


@dataclass(frozen=True)
class Job:
    """One pass of a method over one batch, asked for by a task."""

    task_id: str
    attempt: int
    batch_id: str
    method: Method[MethodSettings]
    snapshot: Snapshot
    work_dir: Path  # local copies; gone afterwards
    cache_bytes: int = 10 * 2**30  # disk space for the method's caches

    @property
    def name(self) -> str:
        """The name of the job's method."""
        return self.method.meta.name

    @property
    def main_metric(self) -> str:
        """The tracked metric that decides which run is best."""
        return self.method.settings.main_metric

    @property
    def direction(self) -> Direction:
        """Which way the main metric gets better."""
        return self.method.metrics[self.main_metric]

    def better(self, value: float, than: float | None) -> bool:
        """Whether a value of the main metric beats another (anything beats None)."""
        return than is None or (value > than if self.direction == "maximize" else value < than)


class Observer(Protocol):
    """Whoever asked for the iteration, following it."""

    def check(self) -> None:
        """Called often.

        Raises:
            tuneloop.methods.contract.Canceled: the iteration is to stop at once.
        """

    def progress(self, **fields: Any) -> None:
        """What is being done: `stage`, `runs_done`, `runs_total`, `epoch`, `epochs`, `main_metric`."""

    def found(self, **fields: str) -> None:
        """What is known from now on: `experiment_id`, `start_run_id`, `best_run_id`."""


class Durable(Protocol):
    """Does a step once, also when the process dies around it: a finished step's JSON answer is remembered."""

    def __call__(self, name: str, step: Callable[[], T], /) -> T:
        """The answer of the step, now or remembered."""


@dataclass(frozen=True)
class Outcome:
    """What an iteration came to."""

    best_run_id: str | None
    detail: str | None  # how the best model compares with the start model, or why there is none


class IterationFailed(Exception):
    """No run of the iteration could be trained to its end."""
