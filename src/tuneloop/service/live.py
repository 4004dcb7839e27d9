"""The live view of a task: what it does, how far it is, what it found, how long it will take."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from tuneloop import client as api
from tuneloop.service import terminal

_BAR = 32


class TimeLeft:
    """Estimates the time left from how the done fraction grew while we watched; `now` is in seconds, of any clock."""

    def __init__(self) -> None:
        self._start = (0.0, -1.0)  # when we began to measure, and the fraction then
        self._latest = -1.0
        self._estimate: tuple[float, float] | None = None  # seconds left, and when that was estimated

    def update(self, fraction: float, now: float) -> None:
        """Take over how far the task is."""
        began, at = self._start
        if at < 0 or fraction <= at:  # not moving yet: the time until it does says nothing
            self._start, self._estimate = (now, fraction), None
        elif fraction != self._latest:
            self._estimate = ((now - began) / (fraction - at) * (1 - fraction), now)
        self._latest = fraction

    def left(self, now: float) -> float | None:
        """Seconds left, counting down between estimates; None while nothing is known."""
        if self._estimate is None:
            return None
        seconds, then = self._estimate
        return max(seconds - (now - then), 0.0)


def fraction_done(progress: api.Progress | None) -> float:
    """The done share of all items, or of all runs, counting the finished epochs of the running one."""
    if progress is not None and progress.items_total:
        return min((progress.items_done or 0) / progress.items_total, 1.0)
    if progress is None or not progress.runs_total:
        return 0.0
    inside = max((progress.epoch or 0) - 1, 0) / progress.epochs if progress.epochs else 0.0
    return min(((progress.runs_done or 0) + min(inside, 1.0)) / progress.runs_total, 1.0)


class TaskView:
    """What a person sees of a task while it runs; `update` it with each look at the task."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = clock()
        self._estimate = TimeLeft()
        self._task: api.Task | None = None
        self._spinner = Spinner("dots")

    def update(self, task: api.Task) -> None:
        """Take over what the task says now."""
        self._task = task
        self._estimate.update(fraction_done(task.progress), self._clock())

    def __rich__(self) -> RenderableType:
        if self._task is None:
            return Text("")
        task = self._task
        head = Table.grid(padding=(0, 1))
        mark: RenderableType = Text({"done": "✓"}.get(task.status, "✗")) if task.is_over else self._spinner
        head.add_row(mark, f"{terminal.title_of(task)} · task {task.id} · {terminal.status_of(task)}")
        lines: list[RenderableType] = [head]
        if not task.is_over:
            lines.append(self._bar(task))
        lines += [Text(f"  {line}", overflow="fold") for line in self._facts(task)]
        return Group(*lines)

    def _bar(self, task: api.Task) -> RenderableType:
        bar = Table.grid(padding=(0, 1))
        stage = terminal.progress_of(task) or "waiting for a worker"
        done = fraction_done(task.progress)
        bar.add_row(" ", ProgressBar(total=1.0, completed=done, width=_BAR), f"{done:>4.0%}", Text.from_markup(stage))
        return Group(bar, Text(f"  {self._times()}", style="dim"))

    def _times(self) -> str:
        now = self._clock()
        times = f"{_duration(now - self._began)} watched"
        left = self._estimate.left(now)
        return times if left is None else f"{times} · about {_duration(left)} left"

    def _facts(self, task: api.Task) -> Iterator[str]:
        metric = task.progress.main_metric if task.progress else None
        if metric:
            values = {"now": metric.value, "best": metric.best}
            shown = "   ".join(f"{name} {value:.4f}" for name, value in values.items() if value is not None)
            yield f"{metric.name}   {shown}"
        if task.best_run_url:
            yield f"best so far  {task.best_run_url}"
        elif task.experiment_url:
            yield f"experiment  {task.experiment_url}"


@dataclass(frozen=True)
class Watching:
    """What a person sees of a task.

    Attributes:
        update: takes over what the task says now.
        say: prints a line of its log.
    """

    update: Callable[[api.Task], None]
    say: Callable[[str], None]


@contextmanager
def watch_task() -> Iterator[Watching]:
    """A live view on stderr below the task's log, or lines where stderr is no terminal."""
    console = terminal.err()

    def say(line: str) -> None:
        console.print(Text(line), soft_wrap=True)

    if not console.is_terminal:
        yield Watching(_log_lines(console), say)
        return
    view = TaskView()
    with Live(view, console=console, refresh_per_second=8, redirect_stdout=False, transient=True) as live:

        def update(task: api.Task) -> None:
            view.update(task)
            live.refresh()

        yield Watching(update, say)


def _log_lines(console: Console) -> Callable[[api.Task], None]:
    last = ""

    def update(task: api.Task) -> None:
        nonlocal last
        line = " · ".join(filter(None, (f"task {task.id}", task.status, terminal.progress_of(task))))
        if line != last:
            console.print(line, soft_wrap=True)
            last = line

    return update


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
