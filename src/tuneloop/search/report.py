"""A page for people to look at: what a run made of the ranking of held-out searches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from tuneloop.charts import Chart, Line, line_chart
from tuneloop.search.comparison import DIGITS, Result, most_changed, number
from tuneloop.search.data import TrainingData
from tuneloop.search.intervals import Interval
from tuneloop.search.trace import Trace

# Results of a search that are listed; a clicked one is listed wherever it stands.
TOP = 10
MAX_TEXT = 200
METRICS = {
    "ndcg_at_10": ("nDCG@10", "the order of the clicked results"),
    "mrr": ("MRR", "one over the rank of the first clicked result"),
    "recall_at_10": ("Recall@10", "the share of the clicks' gain in the first ten"),
    "not_irrelevant_dist_shift": ("Shift to clicked", "how much nearer clicked results came"),
    "irrelevant_dist_shift": ("Shift from irrelevant", "how much further irrelevant results went"),
}
BLUE, GREEN, ORANGE, GREY = "#2563eb", "#0f8a5f", "#c2620e", "#7b8794"


@dataclass(frozen=True)
class Row:
    """A metric in the page's table."""

    name: str
    meaning: str
    before: Interval | None
    after: Interval
    gain: Interval | None


def write_report(page: Path, trace: Trace, data: TrainingData, *, title: str, searches: int) -> None:
    """Write the page: one HTML file that needs no other and runs no script.

    It names no user and no session: of a search it shows the texts of the query and the results, and the clicks.

    Args:
        page: the file.
        trace: the finished run.
        data: where the texts are.
        title: stands above the page.
        searches: how many of the searches that gained and that lost most are shown.
    """
    comparison = trace.comparison
    gained, lost = most_changed(comparison, searches)
    environment = Environment(
        loader=PackageLoader("tuneloop.search"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= {"number": number, "clip": _clip, "listed": listed, "signed": _signed}
    rows = [
        Row(*words, comparison.start.get(name), comparison.end[name], comparison.gain.get(name))
        for name, words in METRICS.items()
        if name in comparison.end
    ]
    html = environment.get_template("report.html").render(
        title=title,
        verdict=comparison.verdict,
        rows=rows,
        scale=max((abs(bound) for row in rows if row.gain for bound in (row.gain.low, row.gain.high)), default=0) or 1,
        charts=_charts(trace),
        sections=[("Gained most", "up", gained), ("Lost most", "down", lost)],
        changes=_changes(trace),
        searches=comparison.searches,
        counts=data.counts,
        params=trace.params,
        texts=data.texts,
    )
    page.write_text(html, encoding="utf-8", errors="replace")


def listed(results: Sequence[Result]) -> list[Result]:
    """The results that the page lists: the first ten, and the clicked ones after them."""
    return [each for each in results if each.rank <= TOP or each.clicked]


def _charts(trace: Trace) -> list[Chart]:
    ranking = [
        Line(METRICS[name][0], trace.series(f"test_{name}"), colour, dots=True)
        for name, colour in (("ndcg_at_10", BLUE), ("mrr", GREEN), ("recall_at_10", ORANGE))
    ]
    loss = [
        Line("training", sorted(dict(trace.series("train_loss")).items()), GREY),
        Line("held out", trace.series("test_loss"), BLUE, dots=True),
    ]
    charts = (
        line_chart("Ranking of held-out searches", ranking, mark=trace.best_step),
        line_chart("Loss", loss, mark=trace.best_step),
    )
    return [chart for chart in charts if chart is not None]


def _changes(trace: Trace) -> dict[str, int]:
    gain = trace.comparison.ndcg_after - trace.comparison.ndcg_before
    return {"up": int((gain > 0).sum()), "same": int((gain == 0).sum()), "down": int((gain < 0).sum())}


def _clip(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT].rstrip()}…"


def _signed(value: float) -> str:
    return ("+" if round(value, DIGITS) > 0 else "") + number(value)
