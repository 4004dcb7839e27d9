"""A small shop whose customers have habits: each buys one article again and again, and mostly of one kind."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

from support.tables import START
from tuneloop.relational import Dataset
from tuneloop.relational.examples import Examples
from tuneloop.relational.learner import Links, Run, Silent
from tuneloop.relational.opening import OpenTables, open_tables
from tuneloop.relational.sources import Sources

CUSTOMERS, ARTICLES, DAYS, HORIZON = 60, 60, 300, 20
SPLITS = {"train": (120, 140, 160, 180), "validation": (200, 220), "test": (240,)}
TEST_DAY = SPLITS["test"][0]
POPULAR = 7  # an article that everybody buys now and then


def habit_tables() -> dict[str, dict[str, Any]]:
    """Customers, articles and transactions as columns by name, the transactions in the order of time."""
    rng = np.random.default_rng(1)
    kinds = np.arange(ARTICLES) % 6
    rows: list[tuple[int, int, int]] = []
    for customer in range(CUSTOMERS):
        kind, basic = customer % 6, int(rng.integers(ARTICLES))
        gap = int(rng.integers(12, 19))
        rows += [(day, customer, basic) for day in range(int(rng.integers(gap)), DAYS, gap)]
        for day in rng.integers(0, DAYS, 20):
            liked = rng.choice(np.flatnonzero(kinds == kind))
            article = POPULAR if rng.random() < 0.2 else liked if rng.random() < 0.8 else rng.integers(ARTICLES)
            rows.append((int(day), customer, int(article)))
    rows.sort()
    return {
        "customers": {
            "customer_id": [f"c{number}" for number in range(CUSTOMERS)],
            "region": rng.choice(["north", "south"], CUSTOMERS).tolist(),
        },
        "articles": {
            "article_id": list(range(ARTICLES)),
            "kind": [f"kind {kind}" for kind in kinds],
            "price": (10.0 * (1 + kinds) + rng.uniform(0, 5, ARTICLES)).round(2).tolist(),
        },
        "transactions": {
            "customer_id": [f"c{customer}" for _, customer, _ in rows],
            "article_id": [article for _, _, article in rows],
            "t_dat": [START + timedelta(days=day) for day, _, _ in rows],
        },
    }


def bought_pairs(tables: dict[str, dict[str, Any]], days: tuple[int, ...]) -> dict[str, list[Any]]:
    """What is bought in the days after, a row for each pair."""
    bought = tables["transactions"]
    rows = sorted(
        {
            (START + timedelta(days=day), customer, article)
            for day in days
            for customer, article, when in zip(*bought.values(), strict=True)
            if day < (when - START).days <= day + HORIZON
        }
    )
    times, customers, articles = zip(*rows, strict=True)
    return {"customer_id": list(customers), "timestamp": list(times), "article_id": list(articles)}


def write_habits(folder: Path, tables: dict[str, dict[str, Any]] | None = None, **task: Any) -> dict[str, Any]:
    """Write the shop, its splits as pairs; the document of its dataset.

    Args:
        folder: where to.
        tables: other tables than `habit_tables`; the splits stay.
        task: other values in the task.
    """
    habits = habit_tables()
    for name, columns in (tables or habits).items():
        pq.write_table(pa.table(columns), folder / f"{name}.parquet")
    for split, days in SPLITS.items():
        pq.write_table(pa.table(bought_pairs(habits, days)), folder / f"next_{split}.parquet")
    customer = {"column": "customer_id", "link_to": "customers.customer_id"}
    article = {"column": "article_id", "link_to": "articles.article_id"}
    return {
        "name": "habits",
        "tables": [
            {"name": "customers", "source": str(folder / "customers.parquet"), "candidate_keys": ["customer_id"]},
            {"name": "articles", "source": str(folder / "articles.parquet"), "candidate_keys": ["article_id"]},
            {
                "name": "transactions",
                "source": str(folder / "transactions.parquet"),
                "time_column": "t_dat",
                "foreign_keys": [customer, article],
            },
        ],
        "task": {
            "name": "next",
            "task_type": "link_prediction",
            "source_entity": customer,
            "target_entity": article,
            "time_column": "timestamp",
            "horizon": f"{HORIZON} days",
            "evaluation_metric": "map_at_5",
            "source": {split: str(folder / f"next_{split}.parquet") for split in SPLITS},
        }
        | task,
    }


def changed_later(draw: Callable[..., Any], day: int) -> dict[str, dict[str, Any]]:
    """`habit_tables` with transactions after a day moved, changed, left out and added."""
    tables = habit_tables()
    bought = tables["transactions"]
    past, future = [], []
    for row in zip(*bought.values(), strict=True):
        (past if (row[2] - START).days <= day else future).append(row)
    kept = draw(st.lists(st.sampled_from(future), max_size=40))
    later = st.integers(day + 1, 400).map(lambda day: START + timedelta(days=day))
    somebody = st.sampled_from([f"c{number}" for number in range(CUSTOMERS)])
    kept += draw(st.lists(st.tuples(somebody, st.integers(0, ARTICLES - 1), later), max_size=40))
    columns = zip(*(past + kept), strict=True)
    return tables | {"transactions": dict(zip(bought, map(list, columns), strict=True))}


@contextmanager
def opened(document: dict[str, Any]) -> Iterator[tuple[Dataset, OpenTables]]:
    """The dataset with its tables and splits, `task.train` and so on."""
    dataset = Dataset.parse(document)
    assert dataset.task is not None and dataset.task.source is not None
    splits = {f"task.{name}": source for name, source in dataset.task.source.items()}
    with open_tables({t.name: t.source for t in dataset.tables} | splits, Sources()) as tables:
        assert tables.problems == {}
        yield dataset, tables


def asked(customers: list[str], day: int = TEST_DAY) -> Examples:
    """Customers to be predicted on a day."""
    times = np.full(len(customers), START + timedelta(days=day), "datetime64[us]")
    return Examples(pa.chunked_array([customers], pa.string()), times, times.copy())


def predicted(run: Run, document: dict[str, Any], examples: Examples) -> Links:
    with opened(document) as (dataset, data):
        links = run.fitted.predict(dataset, data, examples, None, Silent())
        assert isinstance(links, Links)
        return links
