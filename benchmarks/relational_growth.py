"""What do features of tables cost as tables grow? Generated customers, articles and transactions, three sizes of the
same shop: examples a twentieth of the transactions, as many of each customer at every size. Of each size the features
that the service computes, from planning to the last column, in a process of its own, with the peak of its anonymous
memory; in the same run DuckDB's own scan of the file of transactions, an aggregate over each of its columns.

    python benchmarks/relational_growth.py [--quick] [--json FILE]
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table as Printed

from common import write_json
from tuning import PeakMemory

SIZES = (5_000_000, 10_000_000, 20_000_000)  # transactions
PER_EXAMPLE = 20
PER_CUSTOMER = 40
ARTICLES = 20_000
DAYS = 730
TIMES = (550, 640)  # days at which examples are
CHUNK = 1_000_000
MEMORY_GB = 1.5  # of DuckDB
console = Console()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--quick", action="store_true", help="a twentieth of the rows")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure)))
        return
    figures, runs = measure_growth(quick=arguments.quick)
    write_json(arguments.json, figures=figures, runs=runs)


def measure_growth(*, quick: bool = False) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """The figures, and what each size came to.

    `growth_linear` is how many times as much a row of the largest size costs as one of the smallest: 1 is linear. It
    counts seconds of the processor, which other processes on the machine change little.
    """
    runs = []
    for size in SIZES:
        rows = size // 20 if quick else size
        with tempfile.TemporaryDirectory(prefix="tuneloop-growth-") as folder:
            write_tables(Path(folder), rows)
            runs.append(in_a_process(Path(folder)))
        console.print(runs[-1])
    show(runs)
    smallest, largest = runs[0], runs[-1]
    return {
        "feature_rows_per_second": largest["rows"] / largest["seconds"],
        "scan_rows_per_second": largest["rows"] / largest["scan_seconds"],
        "growth_peak_gib": largest["peak_gib"],
        "growth_linear": (largest["cpu_seconds"] / largest["rows"]) / (smallest["cpu_seconds"] / smallest["rows"]),
    }, runs


def in_a_process(folder: Path) -> dict[str, Any]:
    """`measure` with the peak of its tree's anonymous memory."""
    command = [sys.executable, __file__, "--measure", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with PeakMemory(process.pid) as memory:
        output, errors = process.communicate()
    if process.returncode:
        raise SystemExit(f"the features could not be computed:\n{errors}")
    found: dict[str, Any] = json.loads(output.splitlines()[-1])
    return found | {"peak_gib": memory.gib}


def measure(folder: Path) -> dict[str, Any]:
    """Plan and compute the features of all examples, and scan the transactions."""
    from tuneloop.relational import CandidateKey, Dataset, ForeignKey, NodeTask, Splits, Table
    from tuneloop.relational.examples import read_examples
    from tuneloop.relational.opening import open_tables
    from tuneloop.relational.prepare import compute_features, plan_features
    from tuneloop.relational.sources import Sources

    customer = ForeignKey("customer_id", link_to="customers.customer_id")
    article = ForeignKey("article_id", link_to="articles.article_id")
    tables = [
        Table("customers", source=f"{folder}/customers.parquet", candidate_keys=[CandidateKey("customer_id")]),
        Table("articles", source=f"{folder}/articles.parquet", candidate_keys=[CandidateKey("article_id")]),
        Table(
            "transactions",
            source=f"{folder}/transactions.parquet",
            time_column="t_dat",
            foreign_keys=[customer, article],
        ),
    ]
    splits = Splits(train=f"{folder}/examples.parquet", validation=f"{folder}/examples.parquet")
    task = NodeTask(
        "churn",
        task_type="binary_classification",
        target_entity=customer,
        time_column="timestamp",
        label_column="churn",
        source=splits,
    )
    dataset = Dataset("shop", tables=tables, task=task)
    wanted = {table.name: table.source for table in tables} | {"task.train": splits.train}
    with open_tables(wanted, Sources(), memory_gb=MEMORY_GB) as data:
        scan_seconds = min(scan(data, folder) for _ in range(2))
        began, worked = time.perf_counter(), time.process_time()
        examples = read_examples(task, {"train": data["task.train"]})["train"]
        plan = plan_features(dataset, data, examples)
        planned = time.perf_counter() - began
        features = compute_features(plan, dataset, data, examples, examples)
        seconds, worked = time.perf_counter() - began, time.process_time() - worked
        known = float(np.isfinite(features.values[:: max(len(examples) // 1000, 1)]).mean())
    return {
        "rows": pq.read_metadata(folder / "transactions.parquet").num_rows,
        "examples": len(examples),
        "features": len(features.columns),
        "known": known,
        "left_out": list(plan.left_out),
        "plan_seconds": planned,
        "seconds": seconds,
        "cpu_seconds": worked,
        "scan_seconds": scan_seconds,
    }


def scan(data: Any, folder: Path) -> float:
    """Seconds of an aggregate over all columns of the transactions."""
    began = time.perf_counter()
    wanted = "sum(customer_id), sum(article_id), max(t_dat), sum(price), max(channel)"
    data.engine.raw_sql(f"SELECT {wanted} FROM read_parquet('{folder}/transactions.parquet')").fetchall()
    return time.perf_counter() - began


# -- the tables


def write_tables(folder: Path, rows: int) -> None:
    """So many transactions and a twentieth as many examples; the same every time."""
    rng = np.random.default_rng(rows)
    customers = rows // PER_CUSTOMER
    people = {
        "customer_id": np.arange(customers),
        "age": rng.integers(18, 80, customers),
        "region": rng.choice([f"R{number:02d}" for number in range(12)], customers),
    }
    articles = {
        "article_id": np.arange(ARTICLES),
        "price": rng.gamma(2, 20, ARTICLES).round(2),
        "kind": rng.choice([f"kind {number}" for number in range(25)], ARTICLES),
    }
    pq.write_table(pa.table(people), folder / "customers.parquet")
    pq.write_table(pa.table(articles), folder / "articles.parquet")
    write_transactions(folder / "transactions.parquet", rng, rows, customers, articles["price"])
    write_examples(folder / "examples.parquet", rng, rows // PER_EXAMPLE, customers)


def write_transactions(path: Path, rng: np.random.Generator, rows: int, customers: int, prices: Any) -> None:
    """Transactions in the order of time, a few customers and articles with many of them."""
    activity = rng.permutation(rng.gamma(2, 1, customers))
    chosen = np.cumsum(activity) / activity.sum()
    schema = pa.schema(
        {
            "customer_id": pa.int64(),
            "article_id": pa.int64(),
            "t_dat": pa.timestamp("us"),
            "price": pa.float64(),
            "channel": pa.string(),
        }
    )
    start = np.datetime64("2024-01-01", "us")
    with pq.ParquetWriter(path, schema) as writer:
        for first in range(0, rows, CHUNK):
            count = min(CHUNK, rows - first)
            seconds = np.sort(rng.uniform(first, first + count, count)) / rows * DAYS * 86_400
            articles = (ARTICLES * rng.random(count) ** 2).astype(np.int64)
            columns = {
                "customer_id": np.minimum(np.searchsorted(chosen, rng.random(count)), customers - 1),
                "article_id": articles,
                "t_dat": start + (seconds * 1e6).astype("timedelta64[us]"),
                "price": (prices[articles] * rng.uniform(0.7, 1, count)).round(2),
                "channel": np.where(rng.random(count) < 0.4, "online", "store"),
            }
            writer.write_table(pa.table(columns, schema=schema))


def write_examples(path: Path, rng: np.random.Generator, count: int, customers: int) -> None:
    """Examples of all customers, as many at each time."""
    each = count // len(TIMES)
    who = np.concatenate([rng.permutation(customers)[:each] for _ in TIMES])
    days = np.repeat(TIMES, each)
    when = np.datetime64("2024-01-01", "us") + days.astype("timedelta64[D]")
    table = {"customer_id": who, "timestamp": when, "churn": rng.integers(0, 2, len(who))}
    pq.write_table(pa.table(table), path)


def show(runs: list[dict[str, Any]]) -> None:
    names = ("transactions", "examples", "features", "seconds", "rows/s", "scan rows/s", "peak GiB")
    table = Printed(*names, title="features of growing tables")
    for run in runs:
        table.add_row(
            f"{run['rows']:,}",
            f"{run['examples']:,}",
            f"{run['features']}",
            f"{run['seconds']:.1f}",
            f"{run['rows'] / run['seconds']:,.0f}",
            f"{run['rows'] / run['scan_seconds']:,.0f}",
            f"{run['peak_gib']:.2f}",
        )
    console.print(table)


if __name__ == "__main__":
    main()
