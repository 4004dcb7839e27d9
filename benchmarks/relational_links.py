"""How well are links predicted? On the made-up shop: what does a customer buy in the next 30 days, MAP@12 over the
customers who buy anything, beside what people would use instead, each with the settings that are best on the validation
split, as ours has:

  popularity     what sold most of late
  repeats        what the customer bought before, recent and frequent first; then what sold most
  co-occurrence  what was bought by those who bought the same; with, without or after what the customer has

    python benchmarks/relational_links.py [--quick] [--json FILE]
"""

import argparse
import itertools
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pyarrow as pa
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table as Printed
from scipy import sparse

from common import write_json
from tuneloop.demo.forecasts import purchases
from tuneloop.demo.shop import Shop
from tuneloop.relational import Dataset, LinkTask
from tuneloop.relational.boosted_links import BoostedLinks
from tuneloop.relational.examples import Examples, read_examples
from tuneloop.relational.gnn_links import GnnLinks
from tuneloop.relational.learner import Folds, Links, Silent
from tuneloop.relational.metrics import link_values
from tuneloop.relational.opening import OpenTables, open_tables
from tuneloop.relational.sources import Sources

METRIC = "map_at_12"
K = 12
SEARCH_SECONDS = 240
SEEDS = 3
RESAMPLES = 10_000
console = Console()
Values = NDArray[np.float64]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--quick", action="store_true", help="the default settings, one seed")
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    figures, runs = measure_shop(quick=arguments.quick)
    write_json(arguments.json, figures=figures, runs=runs)


def measure_shop(*, quick: bool = False) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """The figures, and what each contender came to."""
    with tempfile.TemporaryDirectory(prefix="tuneloop-shop-") as folder, opened(Path(folder)) as (dataset, data):
        assert isinstance(dataset.task, LinkTask) and dataset.task.source is not None
        examples = read_examples(dataset.task, {name: data[f"task.{name}"] for name, _ in dataset.task.source.items()})
        test = examples["test"]
        baselines = [best_baseline(name, data, examples) for name in BASELINES]
        own = ours(dataset, data, examples, Path(folder), quick=quick)
        network = None if quick else graph(dataset, data, examples, Path(folder))
        best = max(baselines, key=lambda each: each.values.mean())
        low, high = interval(own.values - best.values, test)
    contenders = [*baselines, *filter(None, [network]), own]
    show(contenders, best, (low, high), len(test))
    mean, other = own.values.mean(), best.values.mean()
    figures = {
        "link_map_at_12": mean,
        "link_best_baseline": other,
        "link_ratio": mean / other,
        "link_gain_low": low,
        "link_gain_high": high,
    }
    if network is not None:
        figures["gnn_link_map_at_12"] = network.values.mean()
    return {name: float(value) for name, value in figures.items()}, [each.row() for each in contenders]


@contextmanager
def opened(folder: Path) -> Iterator[tuple[Dataset, OpenTables]]:
    """The shop's tables and what its customers buy next."""
    shop = Shop()
    shop.write_tables(folder)
    shop.write_splits(folder)
    dataset = purchases(folder)
    assert dataset.task is not None and dataset.task.source is not None
    splits = {f"task.{name}": source for name, source in dataset.task.source.items()}
    with open_tables({t.name: t.source for t in dataset.tables} | splits, Sources(), memory_gb=2) as data:
        yield dataset, data


@dataclass(frozen=True)
class Contender:
    """What one came to: its value on the validation split, its settings, and a value for each test example."""

    name: str
    validation: float
    settings: dict[str, Any]
    values: Values
    seconds: float

    def row(self) -> dict[str, Any]:
        return {
            "contender": self.name,
            "validation": self.validation,
            "test": float(self.values.mean()),
            "settings": self.settings,
            "seconds": self.seconds,
        }


# -- ours


def ours(dataset: Dataset, data: OpenTables, examples: dict[str, Examples], folder: Path, *, quick: bool) -> Contender:
    """One search on the validation split; its settings fitted on train and validation with several seeds."""
    began = time.perf_counter()
    watcher = Listener()
    learner = BoostedLinks(dataset, data, Folds(examples["train"], examples["validation"]), seed=0, work_dir=folder)
    learner.prepare(watcher)

    def objective(trial: optuna.Trial) -> float:
        params = learner.defaults() if trial.number == 0 else learner.suggest(trial)
        run = learner.fit(params, seed=0, watcher=watcher)
        trial.set_user_attr("params", params)
        trial.set_user_attr("found", dict(run.found))
        console.print(f"  {run.value:.4f} on validation by {params}, {run.found}")
        return run.value

    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=0))
    study.optimize(objective, n_trials=1 if quick else 30, timeout=SEARCH_SECONDS)
    best = study.best_trial.user_attrs
    test, values = examples["test"], []
    for seed in range(1 if quick else SEEDS):
        fitted = learner.refit(best["params"], best["found"], seed=seed, watcher=watcher)
        links = fitted.predict(dataset, data, test, None, watcher)
        assert isinstance(links, Links)
        values.append(link_values(METRIC, test.labels, links))
        console.print(f"  seed {seed}: {values[-1].mean():.4f} on test")
    for each in list(fitted.importances())[:10]:
        console.print(f"  {each.share:.3f} {each.words}")
    settings = best["params"] | best["found"] | {"by_seed": [float(each.mean()) for each in values]}
    return Contender("ours", study.best_value, settings, np.mean(values, axis=0), time.perf_counter() - began)


def graph(dataset: Dataset, data: OpenTables, examples: dict[str, Examples], folder: Path) -> Contender:
    """The graph learner alone, one run with its default settings."""
    began = time.perf_counter()
    learner = GnnLinks(dataset, data, Folds(examples["train"], examples["validation"]), seed=0, work_dir=folder)
    learner.prepare(Listener())
    run = learner.fit(learner.defaults(), seed=0, watcher=Listener())
    links = run.fitted.predict(dataset, data, examples["test"], None, Listener())
    assert isinstance(links, Links)
    values = link_values(METRIC, examples["test"].labels, links)
    return Contender("graph", run.value, {**learner.defaults(), **run.found}, values, time.perf_counter() - began)


class Listener(Silent):
    """Prints what a learner says."""

    def log(self, line: str) -> None:
        console.print(f"  {line}")


# -- the others


@dataclass(frozen=True)
class Known:
    """What is known at a time: purchases by customer and article, as codes, and how many days ago."""

    customers: NDArray[np.int64]
    articles: NDArray[np.int64]
    ages: Values
    shape: tuple[int, int]

    def matrix(self, weights: Values) -> Any:
        return sparse.csr_matrix((weights, (self.customers, self.articles)), self.shape)

    def popular(self, window: float) -> Values:
        """(articles,) between 0 and 1, what sold in the window; what sold at all comes before what never did."""
        late = np.bincount(self.articles[self.ages < window], minlength=self.shape[1])
        ever = np.bincount(self.articles, minlength=self.shape[1])
        return np.asarray((late + 1e-4 * ever) / (late.max() + 1))


Scorer = Callable[..., Values]


def popularity(known: Known, who: NDArray[np.int64], *, window: float) -> Values:
    return np.tile(known.popular(window), (len(who), 1))


def repeats(known: Known, who: NDArray[np.int64], *, window: float, half_life: float, least: int) -> Values:
    """Bought at least so many times by the customer: by times and recency; then by popularity."""
    weights = known.matrix(np.exp2(-known.ages / half_life))[who].toarray()
    times = known.matrix(np.ones(len(known.ages)))[who].toarray()
    return known.popular(window) + np.where(times >= least, 10 + weights, 0)


def cooccurrence(
    known: Known, who: NDArray[np.int64], *, window: float, half_life: float, past: float, owned: str
) -> Values:
    """Cosine of the customers that two articles have in common; what is owned as it is, left out, or first."""
    recent = known.ages < past
    bought = sparse.csr_matrix(
        (np.ones(recent.sum()), (known.customers[recent], known.articles[recent])), known.shape
    ).sign()
    norms = np.sqrt(np.asarray(bought.sum(0)).ravel())
    scaled = bought @ sparse.diags(1 / np.maximum(norms, 1))
    near = (scaled.T @ scaled).toarray()
    np.fill_diagonal(near, 0)
    scores = known.matrix(np.exp2(-known.ages / half_life))[who] @ near + 1e-3 * known.popular(window)
    times = known.matrix(np.ones(len(known.ages)))[who].toarray()
    if owned == "without":
        return np.where(times > 0, -1.0, scores)
    return np.where(times > 1, 1e3 + times, scores) if owned == "repeats first" else np.asarray(scores)


BASELINES: dict[str, tuple[Scorer, dict[str, tuple[Any, ...]]]] = {
    "popularity": (popularity, {"window": (7, 14, 30, 60, 120, 365)}),
    "repeats": (repeats, {"window": (14, 30, 60), "half_life": (15, 30, 60, 120, 365), "least": (1, 2, 3)}),
    "co-occurrence": (
        cooccurrence,
        {
            "window": (30,),
            "half_life": (15, 30, 60, 180),
            "past": (180, 365, 10_000),
            "owned": ("with", "without", "repeats first"),
        },
    ),
}


def best_baseline(name: str, data: OpenTables, examples: dict[str, Examples]) -> Contender:
    """A baseline with the settings of its grid that are best on the validation split."""
    began = time.perf_counter()
    scorer, grid = BASELINES[name]
    rows = data["transactions"].to_pyarrow()
    keys = data["articles"].to_pyarrow()["article_id"].combine_chunks()
    found: list[tuple[float, dict[str, Any]]] = []
    for values in itertools.product(*grid.values()):
        settings = dict(zip(grid, values, strict=True))
        links = baseline_links(scorer, settings, rows, keys, examples["validation"])
        found.append((float(link_values(METRIC, examples["validation"].labels, links).mean()), settings))
    value, settings = max(found, key=lambda each: each[0])
    links = baseline_links(scorer, settings, rows, keys, examples["test"])
    test = link_values(METRIC, examples["test"].labels, links)
    console.print(f"  {name}: {value:.4f} on validation by {settings}")
    return Contender(name, value, settings, test, time.perf_counter() - began)


def baseline_links(
    scorer: Scorer, settings: dict[str, Any], rows: pa.Table, keys: pa.Array, examples: Examples
) -> Links:
    """The 12 best articles of each example, of what was known by its cut-off."""
    import pyarrow.compute as pc

    customers = pc.unique(pa.chunked_array([*rows["customer_id"].chunks, *examples.keys.chunks]))
    codes = pc.index_in(rows["customer_id"], customers).to_numpy()
    articles = pc.index_in(rows["article_id"], keys).to_numpy()
    days = rows["t_dat"].to_numpy().astype("datetime64[us]")
    who = pc.index_in(examples.keys, customers).to_numpy()
    best, scores = np.zeros((len(examples), K), np.int64), np.zeros((len(examples), K))
    for cut in np.unique(examples.cuts):
        seen = days <= cut
        ages = (cut - days[seen]) / np.timedelta64(1, "D")
        known = Known(codes[seen].astype(np.int64), articles[seen].astype(np.int64), ages, (len(customers), len(keys)))
        at = np.flatnonzero(examples.cuts == cut)
        found = scorer(known, who[at], **settings)
        best[at] = np.argsort(-found, axis=1, kind="stable")[:, :K]
        scores[at] = np.take_along_axis(found, best[at], axis=1)
    return Links(keys.take(pa.array(best.ravel())), scores)


# -- beside each other


def interval(differences: Values, examples: Examples) -> tuple[float, float]:
    """The middle 95 % of the mean difference when customers are drawn again, each with all examples."""
    _, codes = np.unique(examples.keys.to_numpy(zero_copy_only=False).astype(str), return_inverse=True)
    sums, counts = np.bincount(codes, differences), np.bincount(codes)
    rng = np.random.default_rng(0)
    means = []
    for _ in range(RESAMPLES):
        drawn = rng.integers(0, len(sums), len(sums))
        means.append(sums[drawn].sum() / counts[drawn].sum())
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def show(contenders: list[Contender], best: Contender, gain: tuple[float, float], count: int) -> None:
    table = Printed("contender", "validation", "test", "seconds", title=f"MAP@12 of {count:,} test examples")
    for each in contenders:
        table.add_row(each.name, f"{each.validation:.4f}", f"{each.values.mean():.4f}", f"{each.seconds:.0f}")
    console.print(table)
    ratio = contenders[-1].values.mean() / best.values.mean()
    console.print(f"{ratio:.2f} times {best.name}; gained {gain[0]:.4f} to {gain[1]:.4f} (95 %, by customer)")


if __name__ == "__main__":
    main()
