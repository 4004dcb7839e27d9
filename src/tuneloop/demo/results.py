"""The result of the demo as tables: the metrics, and searches before and after side by side."""

from collections.abc import Iterable

import numpy as np
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from tuneloop.demo.journey import MODEL, Journey, Outcome

TOP = 5
_QUARTILES = (0.75, 0.5, 0.25)
_MARKS = {
    2: ("●", "green", "all that was asked for"),
    1: ("◐", "yellow", "all but one"),
    0: ("○", "dim", "not relevant"),
}


def metrics_table(journey: Journey, outcome: Outcome, initial: str, tuned: str) -> Table:
    """nDCG@10, MRR and distance shift of both versions over the held-out searches."""
    queries = len(journey.shop.held_out)
    table = Table(title=f"{queries} held-out searches over {len(journey.shop.articles):,} articles", title_style="bold")
    table.add_column("")
    for heading in (f"before ({MODEL}/{initial})", f"after ({MODEL}/{tuned})", "difference"):
        table.add_column(heading, justify="right")
    for name, before, after in (
        ("nDCG@10", outcome.before.ndcg, outcome.after.ndcg),
        ("MRR", outcome.before.mrr, outcome.after.mrr),
    ):
        table.add_row(name, f"{before.mean():.3f}", f"{after.mean():.3f}", _signed(float((after - before).mean())))
    shift = float(np.nanmean(outcome.shift))
    table.add_row("distance shift", "0.000", f"{shift:+.3f}", _signed(shift))
    return table


def examples(journey: Journey, outcome: Outcome) -> Iterable[RenderableType]:
    """Three searches, chosen at the quartiles of the improvement, and what the marks mean."""
    order = np.argsort(outcome.after.ndcg - outcome.before.ndcg, kind="stable")
    for quartile in _QUARTILES:
        yield _example(journey, outcome, int(order[int(quartile * (len(order) - 1))]))
    marks = "   ".join(f"[{style}]{mark}[/] {meaning}" for mark, style, meaning in _MARKS.values())
    yield Text.from_markup(f"{marks}   [dim]chosen at the quartiles of the gain[/]")


def _example(journey: Journey, outcome: Outcome, row: int) -> RenderableType:
    held = journey.shop.held_out[row]
    invented = journey.shop.lexicon.invented
    meaning = ", ".join(f"{word} = {invented[word].value}" for word in held.query.words if word in invented)
    table = Table.grid(expand=True, padding=(0, 1))
    table.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    table.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    headings = (f"before  nDCG@10 {outcome.before.ndcg[row]:.2f}", f"after  nDCG@10 {outcome.after.ndcg[row]:.2f}")
    table.add_row(*(Text(heading, style="dim") for heading in headings))
    for before, after in zip(outcome.before.order[row, :TOP], outcome.after.order[row, :TOP], strict=True):
        table.add_row(_article(journey, row, int(before)), _article(journey, row, int(after)))
    title = f"[bold]{escape(held.query.text)}[/]  [dim]{escape(meaning)}[/]"
    return Panel(Group(table), title=title, title_align="left", border_style="cyan")


def _article(journey: Journey, row: int, column: int) -> Text:
    mark, style, _ = _MARKS[int(journey.evaluation.grades[row, column])]
    return Text.assemble((f"{mark} ", style), (journey.shop.articles[column].title, "dim" if style == "dim" else ""))


def _signed(value: float) -> str:
    colour = "green" if value > 0 else "red"
    return f"[{colour}]{value:+.3f}[/]"
