"""What the commands print: JSON for programs, tables for people. Answers go to stdout, everything else to stderr."""

import dataclasses
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from tuneloop import client as api

STATUS_STYLES = {"pending": "yellow", "processing": "cyan", "done": "green", "canceled": "dim", "error": "red"}
_NAMED_LINES = 10
_WIDE = 240  # columns where no terminal sets a width: a pipe should cut nothing
_METRICS = ("test_ndcg_at_10", "test_mrr", "test_not_irrelevant_dist_shift")


def out() -> Console:
    """The console for answers."""
    return _console(stderr=False)


def err() -> Console:
    """The console for progress and remarks."""
    return _console(stderr=True)


def _console(*, stderr: bool) -> Console:
    console = Console(stderr=stderr, highlight=False, soft_wrap=False)
    return console if console.is_terminal else Console(stderr=stderr, highlight=False, width=_WIDE)


def say(message: str) -> None:
    """A remark on stderr."""
    err().print(message, soft_wrap=True)


def emit(value: Any) -> None:
    """An answer as JSON on stdout: on one line, or for a person's eyes on more."""
    json.dump(value, sys.stdout, default=_to_json, indent=2 if sys.stdout.isatty() else None)
    sys.stdout.write("\n")


def _to_json(value: Any) -> Any:
    if isinstance(value, api.Embeddings):  # as the service answers
        return {"model": value.model, "dimensions": value.vectors.shape[1], "embeddings": value.vectors.tolist()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {spec.name: getattr(value, spec.name) for spec in dataclasses.fields(value)}
    if isinstance(value, datetime):  # as the service writes times
        return value.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds")
    raise TypeError(f"{type(value).__name__} is no JSON type")


def table(*columns: str, right: Iterable[str] = ()) -> Table:
    """An empty table in the house style; columns in `right` are aligned right."""
    grid = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
    for column in columns:
        grid.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return grid


def show(grid: Table, *, empty: str) -> None:
    """Print a table, or a sentence when it has no rows."""
    if grid.row_count:
        out().print(grid)
    else:
        say(empty)


def show_problems(problems: Sequence[api.DatasetProblem]) -> None:
    """What is wrong with a dataset, each with its fix."""
    if not problems:
        say("nothing is wrong with this dataset")
    for problem in problems:
        where = problem.table if problem.column is None else f"{problem.table}.{problem.column}"
        console = out()
        console.print(f"[bold]{escape(where)}[/bold]  {escape(problem.problem)}", soft_wrap=True)
        console.print(f"  {escape(problem.fix)}", soft_wrap=True, style="dim")


# -- imports


class _Rate(ProgressColumn):
    """Records so far, and a second."""

    def render(self, task: Task) -> Text:
        """`12,000 sessions · 3,400/s`."""
        count = int(task.fields["count"])
        rate = count / task.elapsed if task.elapsed else 0.0
        return Text(f"{count:,} {task.description} · {rate:,.0f}/s")


@contextmanager
def import_progress(what: str, fraction: Callable[[], float | None]) -> Iterator[Callable[[int], None]]:
    """A progress bar on stderr while a file is sent; gives the function to call with the number of records sent."""
    console = err()
    columns = (SpinnerColumn(), BarColumn(), TextColumn("{task.percentage:>3.0f}%"), _Rate(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task(what, total=fraction() is not None or None, count=0)

        def sent(count: int) -> None:
            progress.update(bar, completed=fraction() or 0.0, count=count)

        yield sent


def show_item_import(report: api.ImportReport) -> None:
    """What became of an import of items."""
    _show_import(report, "items", [])


def show_session_import(report: api.ImportReport) -> None:
    """What became of an import of sessions."""
    _show_import(report, "sessions", [f"{report.duplicates:,} duplicates"])


def _show_import(report: api.ImportReport, what: str, more: list[str]) -> None:
    counts = [f"[green]{report.accepted:,}[/] accepted", *more]
    counts.append(f"[{'red' if report.rejected_total else 'green'}]{report.rejected_total:,}[/] rejected")
    out().print(f"{what}: " + " · ".join(counts))
    for bad in report.rejected[:_NAMED_LINES]:
        out().print(f"  line {bad.line}: {escape(bad.error)}", soft_wrap=True)
    if report.rejected_total > _NAMED_LINES:
        out().print(f"  … and {report.rejected_total - _NAMED_LINES:,} more; --json names up to 1,000")
    if not report.complete:
        say("[red]Stopped: too many lines were bad; the rest was not sent.[/]")


# -- tasks


def status_of(task: api.Task) -> str:
    """The status with its colour."""
    return f"[{STATUS_STYLES.get(task.status, 'white')}]{task.status}[/]"


def title_of(task: api.Task) -> str:
    """What a task is about: the method, the dataset and its task, or the model whose answers it writes."""
    if task.fine_tuning_method is not None:
        return escape(task.fine_tuning_method)
    settings = task.settings or {}
    if task.kind == "relational" and task.dataset is not None:
        return escape(f"{task.kind} {task.dataset['name']}/{(task.dataset.get('task') or {}).get('name', '')}")
    return escape(f"{task.kind} {settings.get('model', '')}/{settings.get('version', '')}")


def progress_of(task: api.Task) -> str:
    """`training · run 3 of 8 · epoch 2 of 5`."""
    progress = task.progress
    if progress is None or task.is_over:
        return ""
    parts = [escape(progress.stage)] if progress.stage else []
    if progress.runs_total:
        parts.append(f"run {min((progress.runs_done or 0) + 1, progress.runs_total)} of {progress.runs_total}")
    if progress.epochs:
        parts.append(f"epoch {progress.epoch or 0} of {progress.epochs}")
    if progress.items_total:
        parts.append(f"{progress.items_done or 0:,} of {progress.items_total:,} items")
    return " · ".join(parts)


def show_tasks(tasks: Sequence[api.Task] | api.Task) -> None:
    """Tasks as a table, newest first; one task with all that is known of it."""
    if isinstance(tasks, api.Task):
        show_task(tasks)
        return
    grid = table("Task", "Status", "Created (UTC)", "Batch", "Work", "Progress")
    for task in tasks:
        remark = progress_of(task) or escape(task.detail or "")
        row = (task.id, status_of(task), moment(task.created_at), task.batch_id or "–")
        grid.add_row(*row, title_of(task), remark)
    show(grid, empty="No tasks. `tuneloop tune` makes one.")


def show_task(task: api.Task) -> None:
    """All that is known of a task."""
    facts = {
        "task": task.id,
        "status": status_of(task),
        "work": title_of(task),
        "batch": task.batch_id,
        "created": moment(task.created_at),
        "updated": moment(task.updated_at),
        "progress": progress_of(task),
        "settings": escape(json.dumps(task.settings)) if task.settings else None,
        "metadata": escape(json.dumps(task.metadata)) if task.metadata else None,
        "detail": escape(task.detail) if task.detail else None,
        "experiment": task.experiment_url,
        "best run": task.best_run_url or task.best_run_id,
        "best model": task.best_model_url,
        "items": _items_of(task),
        "output": escape(task.output) if task.output else None,
    }
    show_facts(facts)
    if task.status == "done" and task.best_run_id:
        say(f"Register its best model:  tuneloop models register NAME --task {task.id}")


def show_log(log: api.TaskLog) -> None:
    """What a task printed, as it is."""
    for line in log.lines:
        print(line)


def _items_of(task: api.Task) -> str | None:
    progress = task.progress
    if progress is None or progress.items_done is None or not task.is_over:
        return None
    if task.kind == "predict":
        return f"{progress.items_done:,} predicted"
    return f"{progress.items_done:,}, of which {progress.items_encoded or 0:,} were encoded and the others known"


def show_facts(facts: dict[str, str | None]) -> None:
    """Names and values; empty values are left out. Links stay in one piece."""
    width = max(map(len, facts))
    for name, value in facts.items():
        if value:
            out().print(f"[bold]{name:<{width}}[/]  {value}", soft_wrap=True)


def moment(time: datetime | None) -> str:
    """A time to the second, in UTC."""
    return time.strftime("%Y-%m-%d %H:%M:%S") if time else ""


# -- batches, methods, models


def show_batches(batches: Sequence[api.Batch]) -> None:
    """Batches as a table."""
    grid = table("Batch", "Status", "Sessions", "Late events", "Released (UTC)", right=("Sessions", "Late events"))
    for batch in batches:
        counts = (f"{batch.sessions:,}", f"{batch.late_events:,}")
        grid.add_row(batch.batch_id, batch.status, *counts, moment(batch.released_at))
    show(grid, empty="No batches. Sessions that you send begin one.")


def show_methods(methods: api.Methods) -> None:
    """Methods with their settings, then the plugins that failed."""
    for method in methods.methods:
        out().print(f"[bold]{escape(method.name)}[/] {escape(method.version)}: {escape(method.description)}")
        grid = table("  Setting", "Default", "Meaning")
        for name, schema in method.settings_schema.get("properties", {}).items():
            default = escape(json.dumps(schema["default"])) if "default" in schema else ""
            grid.add_row(f"  {escape(name)}", default, escape(schema.get("description", "")))
        out().print(grid)
    for failed in methods.failed:
        out().print(f"[red]failed[/] {escape(failed.source)}: {escape(failed.error)}", soft_wrap=True)


def show_models(models: Sequence[api.Model]) -> None:
    """Models as a table."""
    grid = table("Model", "Versions", "Latest", "Aliases", "Description", right=("Versions", "Latest"))
    for model in models:
        latest = max((version.version for version in model.versions), key=_number, default="–")
        aliases = ", ".join(f"@{alias} → {version}" for alias, version in sorted(model.aliases.items()))
        row = (str(len(model.versions)), latest, escape(aliases), escape(model.description or ""))
        grid.add_row(escape(model.name), *row)
    show(grid, empty="No models. `tuneloop models register NAME --task ID` makes one.")


def show_model(model: api.Model) -> None:
    """A model's versions with the metrics that matter; JSON has them all."""
    metrics = [name for name in _METRICS if any(name in version.metrics for version in model.versions)]
    grid = table("Version", "Aliases", "Created (UTC)", "Run", *metrics, "Description", right=("Version", *metrics))
    for version in sorted(model.versions, key=lambda version: _number(version.version), reverse=True):
        pointing = sorted(alias for alias, target in model.aliases.items() if target == version.version)
        aliases = " ".join(f"@{alias}" for alias in pointing or version.aliases)
        values = [f"{version.metrics[name]:.4f}" if name in version.metrics else "" for name in metrics]
        row = (version.version, escape(aliases), moment(version.created_at), version.run_id or "")
        grid.add_row(*row, *values, escape(version.description or ""))
    out().print(f"[bold]{escape(model.name)}[/] {escape(model.description or '')}")
    show(grid, empty="It has no versions.")


def _number(version: str) -> int:
    return int(version) if version.isdigit() else -1


def show_embeddings(embeddings: api.Embeddings) -> None:
    """The first numbers of each embedding; JSON has them all."""
    out().print(f"[bold]{escape(embeddings.model)}[/] · {embeddings.vectors.shape[1]} dimensions")
    for vector in embeddings.vectors:
        out().print("  ".join(f"{value:+.4f}" for value in vector[:8]) + "  …", soft_wrap=True)


def show_ranking(ranking: api.Ranking) -> None:
    """Items by score."""
    grid = table("#", "Score", "Item", right=("#", "Score"))
    for place, result in enumerate(ranking.results, start=1):
        grid.add_row(str(place), f"{result.score:.4f}", escape(result.object_id))
    show(grid, empty="Nothing to rank.")
