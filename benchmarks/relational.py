"""How well do tables predict, without anybody writing features? On the nine tables and three tasks of the published
benchmark rel-f1, under two protocols that are never mixed:

  frozen    the published benchmark's: a test example sees no row after 2010-01-01, however late it is itself; for
            choosing, a validation example none after 2005-01-01
  rolling   as a service runs: an example dated t sees every row dated at or before t

For each task and protocol one search chooses settings on the validation split; they are then fitted on train and
validation with several seeds, and the test split is measured: mean and spread.

    python benchmarks/relational.py [--only TASK …] [--quick] [--json FILE]
"""

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from common import need, write_json
from formula1 import TASKS, formula1
from tuneloop.relational.boosted import Labels, Trees, fit_trees
from tuneloop.relational.examples import Examples
from tuneloop.relational.features import Features
from tuneloop.relational.metrics import measure
from tuneloop.relational.opening import open_tables
from tuneloop.relational.prepare import NodePreparation, aged_copies
from tuneloop.relational.schema import NodeTask
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
COPIES = 2
SEEDS = 5
SEARCH_SECONDS = 150
console = Console()


@dataclass(frozen=True)
class Part:
    """Features, labels and times of some examples."""

    features: Features
    labels: Labels
    times: NDArray[np.datetime64]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--only", nargs="+", choices=TASKS, metavar="TASK", help="only these tasks")
    parser.add_argument("--quick", action="store_true", help="one task, three settings, one seed")
    arguments = parser.parse_args()
    folder = need("f1")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    names = arguments.only or (["driver-top3"] if arguments.quick else list(TASKS))
    figures: dict[str, float] = {}
    runs: list[dict[str, Any]] = []
    for name in names:
        for protocol in ("frozen", "rolling"):
            row = run(folder, name, protocol, quick=arguments.quick)
            runs.append(row)
            figures[f"{protocol}_{name}"] = row["mean"]
            console.print({key: value for key, value in row.items() if key != "importances"})
    show(runs)
    write_json(arguments.json, figures=figures, runs=runs)


def run(folder: Path, name: str, protocol: str, *, quick: bool) -> dict[str, Any]:
    """One search, and its settings with each seed."""
    began = time.perf_counter()
    task, parts = prepare(folder, name, protocol)
    prepared = time.perf_counter() - began
    params, rounds, chosen = search(task, parts, trials=3 if quick else 1000)
    searched = time.perf_counter() - began
    values = []
    for seed in range(1 if quick else SEEDS):
        trees = fit(task, parts["full"], None, params, seed, rounds=rounds)
        values.append(score(task, parts["test"], trees))
    top = np.argsort(-trees.importances())[:10]
    return {
        "task": name,
        "protocol": protocol,
        "mean": float(np.mean(values)),
        "spread": float(np.std(values)),
        "validation": chosen,
        "features": len(parts["test"].features.columns),
        "feature_seconds": prepared,
        "search_seconds": searched,
        "params": params,
        "rounds": rounds,
        "importances": [parts["test"].features.columns[at].words for at in top],
    }


def prepare(folder: Path, name: str, protocol: str) -> tuple[NodeTask, dict[str, Part]]:
    """The splits as the protocol lets them see the tables; `full` is train and validation."""
    dataset = formula1(folder, name)
    task = dataset.task
    assert isinstance(task, NodeTask) and task.source is not None
    splits = {f"task.{split}": source for split, source in task.source.items()}
    wanted = {table.name: table.source for table in dataset.tables} | splits
    with open_tables(wanted, Sources(), memory_gb=6) as tables:
        preparation = NodePreparation(
            dataset.tables, task, tables, {split: tables[f"task.{split}"] for split, _ in task.source.items()}
        )
        examples = preparation.examples
        train, validation, test = (examples[split] for split in ("train", "validation", "test"))
        full, labelled = train + validation, train + validation + test
        if protocol == "frozen":
            frozen, test = validation.frozen_at(CUTS["validation"]), test.frozen_at(CUTS["test"])
            full = aged_copies(full, test, COPIES, seed=1)
            train = aged_copies(train, frozen, COPIES, seed=0)
            validation = frozen
        wholes: dict[str, Examples] = {"train": train, "validation": validation, "full": full, "test": test}
        everything = train + validation + full + test
        features = preparation.compute(everything, labelled)
        parts, start = {}, 0
        for part, each in wholes.items():
            values = features.values[start : start + len(each)]
            parts[part] = Part(Features(values, features.columns), preparation.labels(each), each.times)
            start += len(each)
    return task, parts


def search(task: NodeTask, parts: dict[str, Part], *, trials: int) -> tuple[dict[str, Any], int, float]:
    """The settings, the rounds and the value of the metric that are best on the validation split."""

    def objective(trial: optuna.Trial) -> float:
        params = suggest(trial)
        trees = fit(task, parts["train"], parts["validation"], params, seed=0)
        trial.set_user_attr("params", params)
        trial.set_user_attr("rounds", trees.best_rounds)
        return score(task, parts["validation"], trees)

    sampler = optuna.samplers.TPESampler(seed=0, multivariate=True)
    study = optuna.create_study(direction="maximize" if task.maximise else "minimize", sampler=sampler)
    study.optimize(objective, n_trials=trials, timeout=SEARCH_SECONDS)
    best = study.best_trial
    return best.user_attrs["params"], best.user_attrs["rounds"], float(study.best_value)


def suggest(trial: optuna.Trial) -> dict[str, Any]:
    return {
        "num_leaves": trial.suggest_int("num_leaves", 4, 32, log=True),
        "learning_rate": trial.suggest_float("learning_rate", 0.015, 0.06, log=True),
        "min_data_in_leaf": trial.suggest_int("min_data_in_leaf", 10, 150, log=True),
        "feature_fraction": trial.suggest_float("feature_fraction", 0.03, 0.5, log=True),
        "bagging_fraction": trial.suggest_float("bagging_fraction", 0.4, 0.9),
        "lambda_l2": trial.suggest_float("lambda_l2", 0.1, 50, log=True),
        "extra_trees": trial.suggest_categorical("extra_trees", [False, True]),
        "half_life": trial.suggest_categorical("half_life", [0, 10, 20, 40]),
    }


def fit(
    task: NodeTask, train: Part, validation: Part | None, params: dict[str, Any], seed: int, rounds: int | None = None
) -> Trees:
    weights = None
    if params["half_life"]:  # years after which an example counts half
        years = (train.times.max() - train.times) / np.timedelta64(365, "D")
        weights = 0.5 ** (years / params["half_life"])
    held = None if validation is None else (validation.features, validation.labels)
    params = params | {"bags": 1 if validation is not None else 3}
    return fit_trees(
        task.task_type,
        task.evaluation_metric,
        (train.features, train.labels),
        held,
        params,
        seed=seed,
        rounds=rounds,
        weights=weights,
    )


def score(task: NodeTask, part: Part, trees: Trees) -> float:
    value = measure(task.evaluation_metric, part.labels.values, trees.predict(part.features.values))
    return 100 * value if task.maximise else value


def show(runs: list[dict[str, Any]]) -> None:
    table = Table("protocol", "task", "published", "ours", "validation", "seconds", title="test splits of rel-f1")
    for row in runs:
        published = PUBLISHED[f"{row['protocol']} {row['task']}"]
        ours = f"{row['mean']:.2f} ± {row['spread']:.2f}"
        table.add_row(
            row["protocol"],
            row["task"],
            published,
            ours,
            f"{row['validation']:.2f}",
            f"{row['search_seconds']:.0f}",
        )
    console.print(table)


if __name__ == "__main__":
    main()
