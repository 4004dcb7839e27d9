"""A job that learnt from tables, for people: a page, the figures as JSON, and the short version for a terminal."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tuneloop.charts import Chart, Line, line_chart
from tuneloop.relational.baselines import WORDS
from tuneloop.relational.facts import Attempt, Facts
from tuneloop.relational.judging import LINK_KS, value_of
from tuneloop.relational.labels import label_values
from tuneloop.relational.learner import Links
from tuneloop.relational.plots import Confusion, Plot, confusion, curves, reliability, scatter
from tuneloop.relational.schema import LINK_METRICS, NodeTask
from tuneloop.relational.scores import Score, number, said, scores, splits, words_of

if TYPE_CHECKING:
    import pyarrow as pa
    from rich.console import RenderableType

__all__ = ["Attempt", "Facts", "terminal", "write_report"]

MOST_IMPORTANCES = 25
LEAST_SHARE = 0.0005  # what is shown as 0.1 % at least
MOST_RUNS = 50
MAIN_SETTINGS = 6
_COLOURS = ("var(--blue)", "var(--green)", "var(--orange)")


def write_report(facts: Facts, folder: Path) -> None:
    """Write `report.html`, `metrics.json`, `importances.csv` and `predictions.parquet` (of validation) to a folder.

    The page needs no other file and no network, and runs no script.

    Args:
        facts: what the search knows.
        folder: made where it is not there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    measured = scores(facts)
    plots, taken = _plots(facts)
    (folder / "report.html").write_text(_page(facts, measured, plots, taken), encoding="utf-8", errors="replace")
    figures = json.dumps(_figures(facts, measured, plots), indent=1, ensure_ascii=False, allow_nan=False)
    (folder / "metrics.json").write_text(figures + "\n", encoding="utf-8")
    with (folder / "importances.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["words", "table", "share"])
        writer.writerows([each.words, each.table, f"{each.share:.6g}"] for each in facts.importances)
    if "validation" in facts.predictions:
        import pyarrow.parquet as pq

        pq.write_table(_predictions(facts, "validation"), folder / "predictions.parquet")


def terminal(facts: Facts) -> RenderableType:
    """The short version: metrics, five importances in words, and what each table is worth."""
    from rich.console import Group
    from rich.markup import escape
    from rich.table import Column, Table

    made = splits(facts)
    shown = [name for name in ("validation", "test") if name in facts.predictions]
    right = [Column(f"{name} ({made[name].examples:,})", justify="right") for name in shown]
    grid = Table(
        "metric",
        *right,
        Column("guess, " + shown[0] if shown else "guess", justify="right"),
        title="Metrics",
        title_justify="left",
    )
    for at, score in enumerate(scores(facts)):
        cells = [_interval_text(score, name) for name in shown]
        guess = number(score.cells[shown[0]].guess) if shown else "–"
        grid.add_row(score.name, *cells, guess, style="bold" if at == 0 else None)
    parts: list[RenderableType] = [escape(said(facts.task, facts.classes)), grid]
    if facts.importances:
        looks = Table(Column("share", justify="right"), "what", title="Looks most at", title_justify="left")
        for each in facts.importances[:5]:
            looks.add_row(f"{each.share:.1%}", escape(each.words))
        parts.append(looks)
    if facts.by_table:
        name = words_of(facts.task.evaluation_metric)[0]
        worth = Table("table", Column(f"{name} lost", justify="right"), title="Without a table", title_justify="left")
        for table, value in facts.by_table.items():
            worth.add_row(escape(table), number(value))
        parts.append(worth)
    return Group(*parts)


def _interval_text(score: Score, split: str) -> str:
    found = score.cells[split].model
    bounds = f" [dim]{number(found.low)} to {number(found.high)}[/dim]" if math.isfinite(found.low) else ""
    return f"{number(found.value)}{bounds}"


# -- the page


def _page(facts: Facts, measured: list[Score], plots: list[Plot | Chart], taken: Confusion | None) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("tuneloop.relational"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= {"number": number, "signed": _signed, "duration": _duration, "setting": _setting}
    task = facts.task
    largest = max((value for value in facts.by_table.values() if value > 0), default=1.0)
    return environment.get_template("report.html").render(
        title=f"{facts.dataset.name} / {task.name}",
        heading=task.name,
        said=said(task, facts.classes),
        guess=WORDS[task.task_type],
        model=facts.model,
        scores=measured,
        splits=splits(facts),
        predicted=[name for name in ("validation", "test") if name in facts.predictions],
        deciding=words_of(task.evaluation_metric)[0],
        runs=_best_first(facts)[:MOST_RUNS],
        runs_total=len(facts.runs),
        seconds=sum(run.seconds for run in facts.runs),
        main_settings=MAIN_SETTINGS,
        curves=curves(facts.curves, task.evaluation_metric, maximise=task.maximise),
        plots=[plot for plot in plots if isinstance(plot, Plot)],
        charts=[plot for plot in plots if isinstance(plot, Chart)],
        confusion=taken,
        importances=[each for each in facts.importances[:MOST_IMPORTANCES] if each.share >= LEAST_SHARE],
        importances_total=len(facts.importances),
        by_table=facts.by_table,
        largest=largest,
        unmeasured=[table.name for table in facts.dataset.tables if table.name not in facts.by_table],
        tables=facts.dataset.tables,
        task=task,
    )


def _best_first(facts: Facts) -> list[tuple[int, Attempt]]:
    """The runs with their places in the search; those without a value last."""
    sign = -1 if facts.task.maximise else 1

    def place(run: tuple[int, Attempt]) -> tuple[bool, float]:
        value = run[1].value
        known = value is not None and math.isfinite(value)
        return not known, sign * value if known and value is not None else 0.0

    return sorted(enumerate(facts.runs, 1), key=place)


def _plots(facts: Facts) -> tuple[list[Plot | Chart], Confusion | None]:
    """How far predictions of validation can be believed, and which class was taken for which."""
    predictions = facts.predictions.get("validation")
    labels = facts.folds.validation.labels
    if predictions is None or labels is None or not len(labels):
        return [], None
    if isinstance(predictions, Links):
        return [chart for chart in [_by_k(facts, predictions)] if chart is not None], None
    task = facts.task
    assert isinstance(task, NodeTask)
    true = label_values(task, labels, facts.classes)
    taken, plot = None, None
    if task.task_type == "regression":
        plot = scatter(true, predictions, label=task.label_column)
    elif task.task_type == "binary_classification":
        plot = reliability(true, predictions, title="Calibration", of="that came true")
        taken = confusion(true.astype(int), (predictions >= 0.5).astype(int), ["0", "1"])
    elif task.task_type == "multilabel_classification":
        plot = reliability(true.ravel(), predictions.ravel(), title="Calibration, all labels", of="that came true")
    else:
        chosen = predictions.argmax(1)
        right = (chosen == true).astype(float)
        plot = reliability(right, predictions.max(1), title="Calibration of the chosen class", of="that was right")
        taken = confusion(true.astype(int), chosen, facts.classes)
    return [] if plot is None else [plot], taken


def _by_k(facts: Facts, predictions: Links) -> Chart | None:
    ks = [k for k in sorted({*LINK_KS, getattr(facts.task, "k", 1)}) if k <= predictions.scores.shape[1]]
    examples = facts.folds.validation
    lines = [
        Line(
            words_of(f"{name}_at_1")[0].partition("@")[0],
            [(k, value_of(facts.task, f"{name}_at_{k}", examples, predictions, ())) for k in ks],
            colour,
            dots=True,
        )
        for name, colour in zip(LINK_METRICS, _COLOURS, strict=True)
    ]
    return line_chart("The first links", lines)


def _signed(value: float) -> str:
    text = number(value)
    return f"+{text}" if value > 0 and text.strip("0.") else text


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def _setting(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, float):
        return f"{value:.3g}"
    return ", ".join(map(_setting, value)) if isinstance(value, list | tuple) else str(value)


# -- the files


def _figures(facts: Facts, measured: Sequence[Score], plots: Sequence[Plot | Chart]) -> dict[str, Any]:
    """The figures of the page."""
    task = facts.task
    found: dict[str, Any] = {
        "dataset": facts.dataset.name,
        "task": task.name,
        "task_type": task.task_type,
        "evaluation_metric": task.evaluation_metric,
        "model": facts.model,
        "splits": {name: asdict(split) for name, split in splits(facts).items()},
        "metrics": {
            split: {
                score.metric: {**asdict(score.cells[split].model), "baseline": score.cells[split].guess}
                for score in measured
            }
            for split in facts.predictions
        },
        "calibration_error": next((plot.error for plot in plots if isinstance(plot, Plot)), None),
        "runs": [{**asdict(run), "params": dict(run.params)} for run in facts.runs],
        "permutation_by_table": dict(facts.by_table),
    }
    cleaned: dict[str, Any] = _finite(found)
    return cleaned


def _finite(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, dict):
        return {str(name): _finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _predictions(facts: Facts, split: str) -> pa.Table:
    """Entity, time, label and prediction of each example."""
    import pyarrow as pa

    task, examples, found = facts.task, getattr(facts.folds, split), facts.predictions[split]
    columns: dict[str, Any] = {task.entity.column: examples.keys}
    if task.time_column is not None:
        columns[task.time_column] = pa.array(examples.times)
    columns["label"] = examples.labels
    if isinstance(found, Links):
        width = found.scores.shape[1]
        offsets = pa.array(np.arange(len(examples) + 1) * width, pa.int32())
        columns["prediction"] = pa.ListArray.from_arrays(offsets, found.keys)
        columns["score"] = pa.ListArray.from_arrays(offsets, pa.array(found.scores.ravel()))
    elif found.ndim == 1:
        columns["prediction"] = found
    else:
        for at, name in enumerate(facts.classes):
            columns[f"probability of {name}"] = found[:, at]
    return pa.table(columns)
