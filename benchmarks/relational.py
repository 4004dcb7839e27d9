"""How well do tables predict, without anybody writing features? On the nine tables and three tasks of the published
benchmark rel-f1, under two protocols that are never mixed:

  frozen    the published benchmark's: a test example sees no row after 2010-01-01, however late it is itself; for
            choosing, a validation example none after 2005-01-01
  rolling   as a service runs: an example dated t sees every row dated at or before t

For each task and protocol one search over all learners, as a task does by default, chooses settings on the validation
split, and how much the best of each counts in a blend. They are then fitted on train and validation with several seeds,
and the test split is measured: mean and spread, of the blend and of each learner by itself. After them, unless some are
asked for alone, links (relational_links.py) and growth (relational_growth.py).

    python benchmarks/relational.py [--learner NAME …] [--only TASK …] [--protocol …] [--quick] [--json FILE]
"""

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
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
from tuneloop.relational import Dataset, NodeTask
from tuneloop.relational.blend import combine
from tuneloop.relational.examples import Examples
from tuneloop.relational.fitter import Fitter, make_learners
from tuneloop.relational.folds import read_folds
from tuneloop.relational.judging import value_of
from tuneloop.relational.learner import Folds, Learner, Links, Predictions, Silent, learners_for
from tuneloop.relational.model import opened, task_of
from tuneloop.relational.opening import OpenTables
from tuneloop.relational.outcomes import Correction
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
SEARCH_SECONDS = 240  # with the features
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

    def test_value(self, predictions: Predictions, correction: Correction | None) -> float:
        """The same of the test split, which has decided nothing; corrected as a stored model does."""
        test, task = self.folds.test, task_of(self.dataset)
        assert test is not None
        if correction is not None:
            assert isinstance(task, NodeTask) and not isinstance(predictions, Links)
            looked_at = correction.outcomes(task, test, test)
            predictions = correction.corrected(task, test, predictions, test, predictions, looked_at)
        return self.value(test, predictions)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--learner", nargs="+", metavar="NAME", help="only these learners")
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
    for protocol in protocols:
        for name in names:
            with opened_case(folder, name, protocol) as case:
                rows = run(case, arguments.learner, quick=arguments.quick)
            runs += rows
            for row in rows:
                prefix = "" if row["learner"] == "all" else f"{row['learner']}_"
                figures[f"{prefix}{protocol}_{name}"] = row["mean"]
                console.print(f"{protocol} {name}, {row['learner']}: {words(row)}, {row['runs']} runs")
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


def run(case: Case, names: Sequence[str] | None, *, quick: bool) -> list[dict[str, Any]]:
    """One search, and with each seed the settings it found: what they come to together, and each learner by itself."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="tuneloop-benchmark-") as work:
        kinds = learners_for(case.dataset)
        kinds = {name: kinds[name] for name in names or kinds}
        learners = make_learners(case.dataset, case.data, case.folds, kinds, seed=0, work_dir=Path(work))
        fitter = Fitter(case.dataset, case.data, case.folds, learners, seed=0)
        search = Search(learners, maximise=task_of(case.dataset).maximise, seed=0)
        tried = searched(case, fitter, search, began + (QUICK_SECONDS if quick else SEARCH_SECONDS))
        champions = [best for name in learners if (best := search.champion(tried, name)) is not None]
        weights, validation = [1.0], champions[0].validation
        if len(champions) > 1:
            weights, predictions = fitter.blend(champions, WATCHER)
            validation = case.value(case.folds.validation, predictions)
        runs = [fitter.run(each, WATCHER) for each in champions]
        corrections = [fitter.correction([(each, 1.0)]) for each in runs]
        together = fitter.correction(list(zip(runs, weights, strict=True)))
        seconds = time.perf_counter() - began
        found = [refitted(case, learners[each.learner], each, seeds=1 if quick else SEEDS) for each in champions]
    common = {"task": case.name, "protocol": case.protocol, "search_seconds": seconds, "runs": len(tried)}
    common["all_seconds"] = time.perf_counter() - began
    shares = {best.learner: weight for best, weight in zip(champions, weights, strict=True)}
    both = [combine(each, weights) for each in zip(*found, strict=True)]
    rows = [row(case, both, together) | {"learner": "all", "validation": validation, "shares": shares}]
    for best, by_seed, correction in zip(champions, found, corrections, strict=True):
        own = {"learner": best.learner, "validation": best.validation, "params": best.params, "found": best.found}
        rows.append(row(case, by_seed, correction) | own)
    return [common | each for each in (rows if len(champions) > 1 else rows[1:])]


def searched(case: Case, fitter: Fitter, search: Search, end: float) -> list[Tried]:
    """What was tried: as often as a task would, and no more once another run would take too long."""
    tried: list[Tried] = []
    while not tried or (
        len(tried) < RUNS and time.perf_counter() + float(np.mean([each.seconds for each in tried])) < end
    ):
        began = time.perf_counter()
        question = search.ask(tried)
        run = fitter.fit(len(tried), question, WATCHER)
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


def refitted(case: Case, learner: Learner, best: Tried, *, seeds: int) -> list[Predictions]:
    """What the settings predict of the test split, which has decided nothing, with each seed."""
    test = case.folds.test
    assert test is not None
    models = (learner.refit(best.params, best.found, seed=seed, watcher=WATCHER) for seed in range(seeds))
    return [model.predict(case.dataset, case.data, test, case.folds.labelled, WATCHER) for model in models]


def row(case: Case, predictions: Sequence[Predictions], correction: Correction | None) -> dict[str, Any]:
    """What the predictions with each seed come to on the test split."""
    values = [case.test_value(each, correction) for each in predictions]
    told = correction and correction.to_json()
    return {"mean": float(np.mean(values)), "spread": float(np.std(values)), "correction": told}


def words(row: dict[str, Any]) -> str:
    return f"{row['mean']:.2f} ± {row['spread']:.2f}"


def show(runs: list[dict[str, Any]]) -> None:
    """A row for each protocol and task: what was published, and what all learners and each by itself came to."""
    learners = list(dict.fromkeys(row["learner"] for row in runs))
    table = Table("protocol, task", "published", *learners, "seconds", title="test splits of rel-f1")
    for name in dict.fromkeys(f"{row['protocol']} {row['task']}" for row in runs):
        found = {row["learner"]: row for row in runs if f"{row['protocol']} {row['task']}" == name}
        seconds = next(iter(found.values()))["search_seconds"]
        ours = (words(found[each]) if each in found else "" for each in learners)
        table.add_row(name, PUBLISHED[name], *ours, f"{seconds:.0f}")
    console.print(table)


if __name__ == "__main__":
    main()
