"""What there is to predict about the shop's customers: who leaves, and what each buys next."""

from typing import Any

import numpy as np
import pyarrow as pa

from tuneloop.demo.parameters import ShopParameters

CHURN_DAYS = 60  # without a purchase
PURCHASE_DAYS = 30  # that are looked ahead
_ACTIVE_DAYS = 90  # a customer who bought nothing for so long has gone already
_FIRST_DAY = 90
_HELD_OUT = {"churn": 2, "purchases": 3}  # times of the test split, and as many of the validation split


def make_splits(parameters: ShopParameters, transactions: pa.Table) -> dict[str, dict[str, pa.Table]]:
    """The examples of both tasks by split, `train`, `validation` and `test`, one after another in time.

    churn: customer_id, timestamp, churn: whether somebody who bought of late buys nothing in the next 60 days.
    purchases: customer_id, timestamp, article_id: the articles that a customer who buys anything in the next 30 days
    buys in them. No split's labels reach into the next one.
    """
    makers = {"churn": (_churn, CHURN_DAYS), "purchases": (_purchases, PURCHASE_DAYS)}
    found: dict[str, dict[str, pa.Table]] = {}
    for name, (make, horizon) in makers.items():
        times = np.arange(parameters.days - 1 - horizon, _FIRST_DAY, -horizon)
        held = _HELD_OUT[name]
        splits = {"train": times[2 * held :], "validation": times[held : 2 * held], "test": times[:held]}
        first = np.datetime64(parameters.first_day, "D")
        found[name] = {
            split: pa.concat_tables([make(transactions, first + int(day), horizon) for day in sorted(days)])
            for split, days in splits.items()
        }
    return found


def _churn(transactions: pa.Table, time: np.datetime64, horizon: int) -> pa.Table:
    days = transactions["t_dat"].to_numpy().astype("datetime64[D]")
    customers = transactions["customer_id"].to_numpy()
    active = np.unique(customers[(days <= time) & (days > time - _ACTIVE_DAYS)])
    stays = np.isin(active, customers[(days > time) & (days <= time + horizon)])
    return pa.table({**_examples(active, time), "churn": (~stays).astype(int)})


def _purchases(transactions: pa.Table, time: np.datetime64, horizon: int) -> pa.Table:
    days = transactions["t_dat"].to_numpy().astype("datetime64[D]")
    bought = transactions.filter(pa.array((days > time) & (days <= time + horizon)))
    lists = bought.group_by("customer_id").aggregate([("article_id", "distinct")]).sort_by("customer_id")
    return pa.table({**_examples(lists["customer_id"], time), "article_id": lists["article_id_distinct"]})


def _examples(customers: Any, time: np.datetime64) -> dict[str, Any]:
    return {"customer_id": customers, "timestamp": np.full(len(customers), time.astype("datetime64[us]"))}
