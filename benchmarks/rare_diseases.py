"""Two iterations on real texts, through the running service: does search get better with each batch of clicks?

Plays rare-diseases over HTTP: imports the items and the first 60 % of the sessions, tunes; imports the rest, tunes
again from the first iteration's model. Measures nDCG@10 and MRR on the test queries, which no training sees, for the
initial model and after each iteration, and the seconds that each iteration took.

    python benchmarks/rare_diseases.py [--quick] [--json FILE]
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

import tuneloop
from common import need, read_lines, service, write_json
from tuneloop.client import Task

FIRST_SHARE = 0.6
MODEL = "rare-diseases"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--quick", action="store_true", help="one run of one epoch on a tenth of the sessions")
    arguments = parser.parse_args()
    folder = need("rare-diseases")
    items = read_lines(folder / "items.jsonl.gz")
    sessions = read_lines(folder / "sessions.jsonl.gz")
    queries = read_lines(folder / "queries.test.jsonl.gz")
    settings: dict[str, Any] = {}
    if arguments.quick:
        sessions, settings = sessions[: len(sessions) // 10], {"max_runs": 1, "max_epochs": 1}
    split = round(len(sessions) * FIRST_SHARE)
    console = Console()
    with service() as client:
        client.upsert_items(items)
        rows: list[dict[str, Any]] = []
        for number, part in enumerate((sessions[:split], sessions[split:]), 1):
            client.import_sessions(part)
            began = time.monotonic()
            task = client.create_task("Default Fine Tuning Method", settings=settings)
            task = client.wait(task.id, callback=Follower(console), poll_seconds=2)
            seconds = time.monotonic() - began
            if task.status != "done" or task.best_run_id is None:
                raise SystemExit(f"iteration {number} ended {task.status}: {task.detail}")
            console.print(f"iteration {number} took {seconds:.0f} s; measuring")
            if number == 1:
                client.register_model(MODEL, run_id=task.start_run_id)
                rows.append({"model": "initial", "seconds": None, **measure(client, 1, items, queries)})
            version = client.register_model(MODEL, task_id=task.id).version
            measured = measure(client, version, items, queries)
            rows.append({"model": f"after iteration {number}", "seconds": seconds, **measured})
            report(console, rows)
    last = rows[-1]
    figures = {
        "ndcg_at_10_initial": rows[0]["ndcg_at_10"],
        "mrr_initial": rows[0]["mrr"],
        "ndcg_at_10": last["ndcg_at_10"],
        "mrr": last["mrr"],
        "longest_iteration_seconds": max(row["seconds"] or 0 for row in rows),
    }
    write_json(arguments.json, figures=figures, runs=rows)


class Follower:
    """Prints what a task is doing when that changes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last = ""

    def __call__(self, task: Task) -> None:
        """Told about the task every few seconds."""
        progress = task.progress
        if progress is None:
            return
        total = progress.runs_total
        run = f"run {min((progress.runs_done or 0) + 1, total)}/{total}" if total else ""
        metric = f"{progress.main_metric.value:.4f}" if progress.main_metric else ""
        line = f"  {progress.stage} {run} epoch {progress.epoch or '-'} {metric}"
        if line != self._last:
            self._console.print(line)
        self._last = line


def measure(
    client: tuneloop.Client, version: int | str, items: list[dict[str, Any]], queries: list[dict[str, Any]]
) -> dict[str, float]:
    """`ranking_quality` of a registered model."""
    vectors = client.embed(f"{MODEL}/{version}", [item["text"] for item in items], kind="item")
    asked = client.embed(f"{MODEL}/{version}", [query["query"] for query in queries], kind="query")
    return ranking_quality(asked @ vectors.T, [item["object_id"] for item in items], queries)


def ranking_quality(scores: NDArray[np.floating], items: list[str], queries: list[dict[str, Any]]) -> dict[str, float]:
    """nDCG@10 (gain 2^relevance − 1) and MRR of the relevance-2 item in the top 10, by scores (queries, items)."""
    discounts = 1 / np.log2(np.arange(2, 12))
    ndcgs, reciprocals = [], []
    for query, row in zip(queries, scores, strict=True):
        top = [query["relevance"].get(items[place], 0) for place in np.argsort(-row, kind="stable")[:10]]
        ideal = np.sort([2.0**grade - 1 for grade in query["relevance"].values()])[::-1][:10]
        ndcgs.append(np.sum((2.0 ** np.array(top) - 1) * discounts) / np.sum(ideal * discounts[: len(ideal)]))
        reciprocals.append(next((1 / rank for rank, grade in enumerate(top, 1) if grade == 2), 0.0))
    return {"ndcg_at_10": float(np.mean(ndcgs)), "mrr": float(np.mean(reciprocals))}


def report(console: Console, rows: list[dict[str, Any]]) -> None:
    table = Table("model", "nDCG@10", "MRR", "seconds", title="rare-diseases, 1,000 test queries over 5,430 items")
    for row in rows:
        seconds = "" if row["seconds"] is None else f"{row['seconds']:.0f}"
        table.add_row(row["model"], f"{row['ndcg_at_10']:.3f}", f"{row['mrr']:.3f}", seconds)
    console.print(table)


if __name__ == "__main__":
    main()
