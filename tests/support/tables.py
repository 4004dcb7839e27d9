"""A small shop as tables, for what is not about learning."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

CUSTOMERS, ARTICLES, BOUGHT = 60, 25, 800
START = datetime(2024, 1, 1)


def shop_tables() -> dict[str, dict[str, Any]]:
    """Customers, articles, transactions, and the splits of a churn task, as columns by name."""
    rng = np.random.default_rng(0)
    customers = [f"c{number}" for number in range(CUSTOMERS)]
    days = np.sort(rng.integers(0, 300, BOUGHT))
    found: dict[str, dict[str, Any]] = {
        "customers": {
            "customer_id": customers,
            "age": rng.integers(18, 80, CUSTOMERS).tolist(),
            "region": rng.choice(["north", "south", None], CUSTOMERS).tolist(),
        },
        "articles": {
            "article_id": list(range(ARTICLES)),
            "price": rng.uniform(5, 90, ARTICLES).round(2).tolist(),
            "text": [f"A {kind} number {n}" for n, kind in enumerate(rng.choice(["shoe", "hat"], ARTICLES))],
        },
        "transactions": {
            "customer_id": rng.choice(customers, BOUGHT).tolist(),
            "article_id": rng.integers(0, ARTICLES, BOUGHT).tolist(),
            "t_dat": [START + timedelta(days=int(day)) for day in days],
            "price": rng.uniform(5, 90, BOUGHT).round(2).tolist(),
        },
    }
    for split, first in (("train", 100), ("validation", 200), ("test", 250)):
        when = [START + timedelta(days=first + int(extra)) for extra in rng.integers(0, 40, 50)]
        found[f"churn_{split}"] = {
            "customer_id": rng.choice(customers, 50).tolist(),
            "timestamp": when,
            "churn": rng.integers(0, 2, 50).tolist(),
        }
    return found


def write_shop(folder: Path, **changes: Any) -> dict[str, Any]:
    """Write the shop as Parquet files; the document of its dataset.

    Args:
        folder: where to.
        changes: for a table, what is made of its columns before they are written.
    """
    for name, columns in shop_tables().items():
        if name in changes:
            columns = changes[name](columns)
        pq.write_table(pa.table(columns), folder / f"{name}.parquet")
    return shop_document(folder)


def shop_document(folder: Path) -> dict[str, Any]:
    return {
        "name": "shop",
        "tables": [
            {"name": "customers", "source": str(folder / "customers.parquet"), "candidate_keys": ["customer_id"]},
            {"name": "articles", "source": str(folder / "articles.parquet"), "candidate_keys": ["article_id"]},
            {
                "name": "transactions",
                "source": str(folder / "transactions.parquet"),
                "time_column": "t_dat",
                "foreign_keys": [
                    {"column": "customer_id", "link_to": "customers.customer_id"},
                    {"column": "article_id", "link_to": "articles.article_id"},
                ],
            },
        ],
        "task": {
            "name": "churn",
            "task_type": "binary_classification",
            "target_entity": {"column": "customer_id", "link_to": "customers.customer_id"},
            "time_column": "timestamp",
            "label_column": "churn",
            "horizon": "7 days",
            "source": {name: str(folder / f"churn_{name}.parquet") for name in ("train", "validation", "test")},
        },
    }
