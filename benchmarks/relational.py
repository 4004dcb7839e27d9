"""How well do tables predict, without anybody writing features? On the nine tables and three tasks of the published
benchmark rel-f1, under two protocols that are never mixed:

  frozen    the published benchmark's: a test example sees no row after 2010-01-01, however late it is itself; for
            choosing, a validation example none after 2005-01-01
  rolling   as a service runs: an example dated t sees every row dated at or before t

For each task and protocol one search chooses settings on the validation split; they are then fitted on train and
validation with several seeds, and the test split is measured: mean and spread. The boosted learner does them all, the
graph learner the frozen ones. After them, unless some are asked for alone, links (relational_links.py) and growth
(relational_growth.py).

    python benchmarks/relational.py [--learner NAME] [--only TASK …] [--protocol …] [--quick] [--json FILE]
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from rich.console import Console
from rich.table import Table

from common import need, write_json
from formula1 import TASKS, formula1
from relational_growth import measure_growth
from relational_links import measure_shop
from tuneloop.relational import Dataset
from tuneloop.relational.examples import Examples
from tuneloop.relational.fitter import make_learners
from tuneloop.relational.folds import read_folds
from tuneloop.relational.judging import value_of
from tuneloop.relational.learner import Fitted, Folds, Learner, Predictions, Silent, learners_for
from tuneloop.relational.model import opened, task_of
from tuneloop.relational.opening import OpenTables
from tuneloop.relational.search import Search, Tried
from tuneloop.relational.settings import RelationalSettings
from tuneloop.relational.sources import Sources

# What others reached on the test splits; AUROC in percent, of positions the mean absolute error.
PUBLISHED = {
    "frozen driver-dnf": "RDL 72.6, RelGNN 75.3",
    "frozen driver-top3": "RDL 75.5, RelGNN 85.7",
    "frozen driver-position": "RDL 4.02, RelGNN 3.80",
    "rolling driver-dnf": "KumoRFM-2 84.6 (protocol not stated)",
    "rolling driver-top3": "KumoRFM-2 92.2, fine-tuned 99.6 (protocol not stated)",
    "rolling driver-position": "KumoRFM fine-tuned 2.73 (protocol not stated)",
}
CUTS = {"validation": np.datetime64("2005-01-01", "us"), "test": np.datetime64("2010-01-01", "us")}
PROTOCOLS = ("frozen", "rolling")
SEEDS = 5
RUNS = RelationalSettings().max_runs  # as a task has by default
SEARCH_SECONDS = 300  # with the features
QUICK_SECONDS = 80
WATCHER = Silent()
console = Console()


@dataclass(frozen=True)
class Case:
    """A task under a protocol: open tables, and the examples as the protocol lets them see these."""

    name: str
    protocol: str
    dataset: Dataset
    data: OpenTables
    folds: Folds

    def value(self, examples: Examples, predictions: Predictions) -> float:
        """The task's metric; AUROC in percent."""
        task = task_of(self.dataset)
        value = value_of(task, task.evaluation_metric, examples, predictions, ())
        return 100 * value if task.maximise else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--learner", help="who learns, alone; figures of others than boosted begin with its name")
    parser.add_argument("--only", nargs="+", choices=TASKS, metavar="TASK", help="only these tasks")
    parser.add_argument("--protocol", nargs="+", choices=PROTOCOLS, default=PROTOCOLS, help="only these protocols")
    parser.add_argument("--quick", action="store_true", help="one task, a short search, one seed")
    arguments = parser.parse_args()
    folder = need("f1")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    everything = not (arguments.only or arguments.quick or arguments.learner) and arguments.protocol == PROTOCOLS
    names = arguments.only or (["driver-top3"] if arguments.quick else list(TASKS))
    protocols = ["rolling"] if arguments.quick and arguments.protocol == PROTOCOLS else arguments.protocol
    figures: dict[str, float] = {}
    runs: list[dict[str, Any]] = []
    cases = [(arguments.learner or "boosted", protocol) for protocol in protocols]
    if everything:
        cases.append(("gnn", "frozen"))
    for learner, protocol in cases:
        for name in names:
            with opened_case(folder, name, protocol) as case:
                row = run(case, learner, quick=arguments.quick)
            runs.append(row)
            prefix = "" if learner == "boosted" else f"{learner}_"
            figures[f"{prefix}{protocol}_{name}"] = row["mean"]
            console.print({key: value for key, value in row.items() if key != "tried"})
            write_json(arguments.json, figures=figures, runs=runs)
    show(runs)
    if everything:
        for measured in (measure_shop, measure_growth):
            more_figures, more_runs = measured()
            figures |= more_figures
            runs += more_runs
            write_json(arguments.json, figures=figures, runs=runs)


@contextmanager
def opened_case(folder: Path, name: str, protocol: str) -> Iterator[Case]:
    """A task, as the protocol lets its validation and test examples see the tables."""
    dataset = formula1(folder, name)
    with opened(dataset, Sources(), memory_gb=4, splits=True) as (data, _):
        folds = read_folds(dataset, data)
        assert folds.test is not None
        if protocol == "frozen":
            frozen = folds.validation.frozen_at(CUTS["validation"])
            folds = Folds(folds.train, frozen, folds.test.frozen_at(CUTS["test"]))
        yield Case(name, protocol, dataset, data, folds)


def run(case: Case, name: str, *, quick: bool) -> dict[str, Any]:
    """One search, and its settings with each seed."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="tuneloop-benchmark-") as work:
        kind = learners_for(case.dataset)[name]
        learners = make_learners(case.dataset, case.data, case.folds, {name: kind}, seed=0, work_dir=Path(work))
        learner = learners[name]
        learner.prepare(WATCHER)
        prepared = time.perf_counter() - began
        tried = search(case, learners, began + (QUICK_SECONDS if quick else SEARCH_SECONDS))
        best = Search(learners, maximise=task_of(case.dataset).maximise, seed=0).best(tried)
        assert best is not None
        searched = time.perf_counter() - began
        models = refitted(learner, best, seeds=1 if quick else SEEDS)
        values = [test(case, model) for model in models]
    return {
        "task": case.name,
        "protocol": case.protocol,
        "learner": name,
        "mean": float(np.mean(values)),
        "spread": float(np.std(values)),
        "value": best.value,
        "validation": best.validation,
        "feature_seconds": prepared,
        "search_seconds": searched,
        "all_seconds": time.perf_counter() - began,
        "runs": len(tried),
        "params": best.params,
        "found": best.found,
        "importances": [f"{each.share:.1%} {each.words}" for each in list(models[0].importances())[:10]],
        "tried": [each.to_json() for each in tried],
    }


def search(case: Case, learners: dict[str, Learner], end: float) -> list[Tried]:
    """What was tried: as often as a task would, and no more once another run would take too long."""
    search = Search(learners, maximise=task_of(case.dataset).maximise, seed=0)
    tried: list[Tried] = []
    while not tried or (
        len(tried) < RUNS and time.perf_counter() + float(np.mean([each.seconds for each in tried])) < end
    ):
        began = time.perf_counter()
        question = search.ask(tried)
        run = learners[question.learner].fit(question.params, seed=0, watcher=WATCHER)
        tried.append(
            Tried(
                number=len(tried),
                learner=question.learner,
                params=question.params,
                outcome="done",
                value=run.value,
                validation=case.value(case.folds.validation, run.predictions),
                found=run.found,
                suggested=question.suggested,
                seconds=time.perf_counter() - began,
            )
        )
    return tried


def refitted(learner: Learner, best: Tried, *, seeds: int) -> list[Fitted]:
    return [learner.refit(best.params, best.found, seed=seed, watcher=WATCHER) for seed in range(seeds)]


def test(case: Case, model: Fitted) -> float:
    """The metric on the test split, which has decided nothing."""
    examples = case.folds.test
    assert examples is not None
    predictions = model.predict(case.dataset, case.data, examples, case.folds.labelled, WATCHER)
    return case.value(examples, predictions)


def show(runs: list[dict[str, Any]]) -> None:
    columns = "learner", "protocol", "task", "published", "ours", "validation", "seconds"
    table = Table(*columns, title="test splits of rel-f1")
    for row in runs:
        published = PUBLISHED[f"{row['protocol']} {row['task']}"]
        ours = f"{row['mean']:.2f} ± {row['spread']:.2f}"
        measured = published, ours, f"{row['validation']:.2f}", f"{row['search_seconds']:.0f}"
        table.add_row(row["learner"], row["protocol"], row["task"], *measured)
    console.print(table)


if __name__ == "__main__":
    main()
