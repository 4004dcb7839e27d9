"""How the demo looks in a terminal, and in a log file: steps with progress bars, a table, searches side by side."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from tuneloop.client import Health, Task
from tuneloop.demo import results
from tuneloop.demo.forecasts import Forecast, Forecasts
from tuneloop.demo.journey import ALIAS, MODEL, Journey, Outcome
from tuneloop.demo.predictions import CHURN_DAYS
from tuneloop.demo.shop import Shop

_LABEL = 25
_CUSTOMERS, _ARTICLES = 3, 3  # that the forecasts show


class Display:
    """Everything that the demo prints."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def title(self) -> None:
        """What this is."""
        self._console.print(Rule("[bold]Tuneloop[/] · a search that learns from clicks", style="cyan"))

    def round(self, journey: Journey) -> None:
        """What this round is about."""
        shop = journey.shop
        words = ", ".join(f"[italic]{word}[/] = {meaning}" for word, meaning in _some_words(journey))
        self._console.print(
            f"A made-up fashion shop: [bold]{len(shop.articles):,}[/] articles, "
            f"[bold]{len(shop.customers.ids):,}[/] customers, [bold]{len(shop.history.day):,}[/] purchases in two "
            f"years, and shoppers who search in [bold]{len(shop.lexicon.invented)}[/] words that no pretrained model "
            f"knows: {words}."
        )
        if journey.task is not None:
            self._console.print(f"[yellow]Going on[/] with round {journey.round + 1}, which an earlier demo began.")
        elif journey.round:
            self._console.print(
                f"Round [bold]{journey.round + 1}[/]: new searches; tuning goes on from the last model."
            )

    @contextmanager
    def starting(self) -> Iterator[Callable[[Health | None], None]]:
        """While the service starts; gives a function that takes what it says of itself."""
        with self._bar() as bar:
            step = bar.add_task(_label("start the service"), total=None, count="")

            def update(health: Health | None) -> None:
                parts = health.parts if health else {}
                bar.update(step, count="  ".join(f"{name} {'✓' if part.ok else '…'}" for name, part in parts.items()))

            yield update
            bar.update(step, total=1, completed=1, count="all parts are well")

    @contextmanager
    def step(self, label: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
        """A step of known length; gives a function that takes how much is done."""
        with self._bar() as bar:
            step = bar.add_task(_label(label), total=total, count="")

            def advance(done: int) -> None:
                bar.update(step, completed=done, count=f"{done:,} of {total:,} {unit}")

            yield advance

    @contextmanager
    def task(self, label: str) -> Iterator[Callable[[Task], None]]:
        """While a task runs; gives a function that takes the task."""
        with self._bar() as bar:
            step = bar.add_task(_label(label), total=1.0, count="waiting for the worker")
            seen = ""

            def update(task: Task) -> None:
                nonlocal seen
                text = _progress_text(task)
                bar.update(step, completed=1.0 if task.is_over else _fraction(task), count=text)
                if not self._console.is_terminal and text != seen:
                    self._console.print(f"  {label}: {text}", soft_wrap=True)
                    seen = text

            yield update

    def registered(self, initial: str, tuned: str) -> None:
        """Which versions there are now."""
        self._console.print(
            f"[green]✓[/] registered  [bold]{MODEL}/{initial}[/] before, [bold]{MODEL}/{tuned}[/] tuned, "
            f"and [bold]@{ALIAS}[/] points at [bold]{MODEL}/{tuned}[/]"
        )

    def outcome(self, journey: Journey, outcome: Outcome, initial: str, tuned: str) -> None:
        """The table, and three searches before and after."""
        self._console.print()
        self._console.print(results.metrics_table(journey, outcome, initial, tuned))
        self._console.print(
            "[dim]Each model ranks the whole catalogue; the shop knows what is relevant. No training saw these "
            "searches.[/]\n"
        )
        for example in results.examples(journey, outcome):
            self._console.print(example)

    def tables(self, shop: Shop) -> None:
        """What is learnt besides searching."""
        sizes = ", ".join(f"{len(table):,} {name}" for name, table in shop.tables().items())
        self._console.print(f"The same shop as [bold]tables[/]: {sizes}. No feature is written by hand.")

    def forecasts(self, forecasts: Forecasts, leaves: Forecast, buys: Forecast) -> None:
        """How good the models of tables are, and what they say."""
        for forecast in (leaves, buys):
            self._console.print(f"[green]✓[/] registered  [bold]{forecast.model}[/]  {escape(forecast.detail)}")
        table = Table(title=f"the likeliest to buy nothing in the next {CHURN_DAYS} days, and what they would buy")
        table.add_column("customer")
        table.add_column("leaves", justify="right")
        table.add_column("bought last")
        table.add_column("would buy")
        likely = forecasts.most_likely_to_leave(leaves, _CUSTOMERS)
        wanted = forecasts.next_purchases(buys, [customer for customer, _ in likely])
        for customer, chance in likely:
            bought = [forecasts.describe(each) for each in forecasts.last_purchases(customer, _ARTICLES)]
            would = [forecasts.describe(each) for each in wanted[customer][:_ARTICLES]]
            table.add_row(customer, f"{chance:.0%}", "\n".join(bought), "\n".join(would), end_section=True)
        self._console.print()
        self._console.print(table)

    def links(self, url: str, task: Task | None) -> None:
        """Where to look."""
        experiment = task.experiment_url if task else None
        links = {"API": f"{url}/docs", "every run": experiment or ""}
        if experiment and "/#/" in experiment:
            links["the model"] = f"{experiment.split('/#/')[0]}/#/models/{MODEL}"
        self._console.print()
        for name, link in links.items():
            if link:  # whole, however narrow the terminal is: it may be copied
                self._console.print(f"  {name:9}", Text(link, style=f"link {link}"), soft_wrap=True)

    def verdict(self, outcome: Outcome, seconds: float) -> None:
        """One last line."""
        took = f"[dim]{int(seconds // 60)}:{int(seconds % 60):02d} minutes[/]"
        if outcome.is_better:
            self._console.print(f"\n[bold green]The tuned model ranks better.[/] {took}")
        else:
            self._console.print(f"\n[bold red]The tuned model ranks no better.[/] {took}")

    def staying(self) -> None:
        """The service stays."""
        self._console.print("The service stays up. [bold]Ctrl-C[/] stops it; `make demo` again plays another round.")

    def failed(self, reason: str) -> None:
        """Why the demo ends here."""
        self._console.print(f"[bold red]The demo failed:[/] {escape(reason)}", soft_wrap=True)

    def say(self, text: str) -> None:
        """A plain remark."""
        self._console.print(f"[dim]{escape(text)}[/]")

    def _bar(self) -> Progress:
        return Progress(
            SpinnerColumn(finished_text="[green]✓[/]"),
            TextColumn("{task.description}"),
            BarColumn(14),
            TextColumn("{task.fields[count]}"),
            TimeElapsedColumn(),
            console=self._console,
        )


def _label(text: str) -> str:
    return f"{text:<{_LABEL}}"


def _some_words(journey: Journey) -> list[tuple[str, str]]:
    """A slang word, a code and a brand word, with what they mean."""
    examples = {concept.facet: (word, concept.value) for word, concept in journey.shop.lexicon.invented.items()}
    return [examples[facet] for facet in ("fit", "feature", "style")]


def _fraction(task: Task) -> float:
    progress = task.progress
    if progress is None or not progress.runs_total:
        return 0.0
    running = min(max((progress.epoch or 1) - 1, 0) / progress.epochs, 1.0) if progress.epochs else 0.0
    return min(((progress.runs_done or 0) + running) / progress.runs_total, 1.0)


def _progress_text(task: Task) -> str:
    """Run, epoch and metric of a task, as far as they are known."""
    progress = task.progress
    if task.is_over or progress is None:
        return task.status if task.is_over else "waiting for the worker"
    facts = []
    if progress.runs_total:
        facts.append(f"run {min((progress.runs_done or 0) + 1, progress.runs_total)}/{progress.runs_total}")
    if progress.epoch is not None and progress.stage == "training":
        facts.append(f"epoch {progress.epoch}/{progress.epochs}" if progress.epochs else f"epoch {progress.epoch}")
    elif progress.stage:
        facts.append(progress.stage)
    metric = progress.main_metric
    if metric:
        values = {"": metric.value, "best ": metric.best}
        known = ", ".join(f"{name}{value:.3f}" for name, value in values.items() if value is not None)
        name = metric.name.removeprefix("test_").removeprefix("not_irrelevant_dist_").replace("_", " ")
        facts.append(f"{name} {known}".rstrip())
    return " · ".join(facts) or task.status
