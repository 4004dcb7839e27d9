"""The examples of what there is to predict say what happened, and no split knows of the next."""

from dataclasses import replace
from datetime import date, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tuneloop.demo.predictions import CHURN_DAYS, PURCHASE_DAYS
from tuneloop.demo.shop import Shop


@pytest.fixture(scope="module")
def splits(shop, tmp_path_factory):
    folder = tmp_path_factory.mktemp("splits")
    shop.write_splits(folder)
    names = ("train", "validation", "test")
    return {
        task: {name: pq.read_table(folder / task / f"{name}.parquet") for name in names}
        for task in ("churn", "purchases")
    }


@pytest.fixture(scope="module")
def bought(shop) -> list[tuple[str, str, date]]:
    columns = shop.tables()["transactions"].select(["customer_id", "article_id", "t_dat"])
    return list(zip(*columns.to_pydict().values(), strict=True))


@pytest.mark.parametrize(("task", "days"), [("churn", CHURN_DAYS), ("purchases", PURCHASE_DAYS)])
def test_no_label_reaches_into_the_next_split(shop, splits, task, days):
    for earlier, later in (("train", "validation"), ("validation", "test")):
        last, first = max(_times(splits[task][earlier])), min(_times(splits[task][later]))
        assert last + timedelta(days=days) <= first
    assert max(_times(splits[task]["test"])).date() + timedelta(days=days) <= shop.parameters.last_day
    assert all(table.num_rows > 500 for table in splits[task].values())


def test_purchases_are_those_of_the_next_days(splits, bought):
    test = splits["purchases"]["test"]
    time = min(_times(test))
    found = {row["customer_id"]: set(row["article_id"]) for row in test.to_pylist() if row["timestamp"] == time}
    wanted: dict[str, set[str]] = {}
    for customer, article, day in bought:
        if time.date() < day <= time.date() + timedelta(days=PURCHASE_DAYS):
            wanted.setdefault(customer, set()).add(article)
    assert found == wanted


def test_who_churns_bought_of_late_and_then_nothing(splits, bought):
    test = splits["churn"]["test"]
    time = max(_times(test))
    labels = {row["customer_id"]: row["churn"] for row in test.to_pylist() if row["timestamp"] == time}
    end = time.date() + timedelta(days=CHURN_DAYS)
    buys = {customer for customer, _, day in bought if time.date() < day <= end}
    late = {customer for customer, _, day in bought if time.date() - timedelta(days=90) < day <= time.date()}
    assert set(labels) == late
    assert labels == {customer: int(customer not in buys) for customer in late}
    assert 0.1 < np.mean(list(labels.values())) < 0.9


def test_the_same_shop_gives_the_same_examples(small, tmp_path):
    for name in ("one", "two"):
        Shop(replace(small, days=600)).write_splits(tmp_path / name)
    files = [path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.parquet")]
    assert len(files) == 6
    assert all(pq.read_table(tmp_path / "one" / file).equals(pq.read_table(tmp_path / "two" / file)) for file in files)


def _times(table: pa.Table) -> list[datetime]:
    return table["timestamp"].to_pylist()
