"""Features are what their words say, and nothing later than an example's cut-off changes them."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.tables import START, shop_tables, write_shop
from tuneloop.relational import Dataset
from tuneloop.relational.examples import Examples, read_examples
from tuneloop.relational.feature_queries import FeatureQueries
from tuneloop.relational.features import Computer, Features
from tuneloop.relational.opening import OpenTables, open_tables
from tuneloop.relational.plan import Plan
from tuneloop.relational.prepare import aged_copies, compute_features, plan_features
from tuneloop.relational.sources import Sources

DAY = np.timedelta64(1, "D")


@contextmanager
def opened(document: dict[str, Any]) -> Iterator[tuple[Dataset, OpenTables]]:
    dataset = Dataset.parse(document)
    assert dataset.task is not None and dataset.task.source is not None
    splits = {f"task.{name}": source for name, source in dataset.task.source.items()}
    with open_tables({t.name: t.source for t in dataset.tables} | splits, Sources()) as tables:
        assert tables.problems == {}
        yield dataset, tables


class Prepared:
    """A plan, and what is computed by it."""

    def __init__(self, dataset: Dataset, tables: OpenTables) -> None:
        assert dataset.task is not None
        splits = {name: tables[f"task.{name}"] for name in ("train", "validation", "test")}
        self.examples = read_examples(dataset.task, splits)
        self.plan = plan_features(dataset, tables, self.examples["train"])
        self._given = dataset, tables

    def compute(self, examples: Examples, labelled: Examples | None) -> Features:
        return compute_features(self.plan, *self._given, examples, labelled)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Prepared, Features, Examples]]:
    """The features of the shop's training examples."""
    with opened(write_shop(tmp_path_factory.mktemp("shop"))) as (dataset, tables):
        preparation = Prepared(dataset, tables)
        train = preparation.examples["train"]
        labelled = train + preparation.examples["validation"]
        yield preparation, preparation.compute(train, labelled), train


def column(features: Features, words: str) -> np.ndarray:
    found = [at for at, each in enumerate(features.columns) if each.words == words]
    assert found, [each.words for each in features.columns]
    return features.values[:, found[0]]


def seen(train: Examples, row: int) -> list[int]:
    """The transactions that an example may see."""
    bought = shop_tables()["transactions"]
    key, cut = train.keys[row].as_py(), train.cuts[row].astype(object)
    return [at for at, who in enumerate(bought["customer_id"]) if who == key and bought["t_dat"][at] <= cut]


def test_counts_means_and_recency_are_those_of_the_rows_seen(shop: Any) -> None:
    _, features, train = shop
    bought = shop_tables()["transactions"]
    for row in range(len(train)):
        rows = seen(train, row)
        prices = np.array([bought["price"][at] for at in rows])
        days = np.array([(train.cuts[row].astype(object) - bought["t_dat"][at]) / timedelta(days=1) for at in rows])
        expected = {
            "number of rows, through transactions": len(rows),
            "rows in the last 60 days, through transactions": int((days <= 60).sum()),
            "mean price, through transactions": prices.mean() if rows else np.nan,
            "largest price, through transactions": prices.max() if rows else np.nan,
            "sum of price, through transactions": prices.sum() if rows else np.nan,
            "deviation of price, through transactions": prices.std() if rows else np.nan,
            "days since the last row, through transactions": days.min() if rows else np.nan,
            "days since the first row, through transactions": days.max() if rows else np.nan,
        }
        if len(set(days)) > 1:
            expected["change of price in a year, through transactions"] = np.polyfit(-days, prices, 1)[0] * 365
        if rows:
            weights = 0.5 ** (days / 60)
            recent = (weights * prices).sum() / weights.sum()
            expected["mean price, the last 60 days counting most, through transactions"] = recent
            last = [price for price, day in zip(prices, days, strict=True) if day == days.min()]
            expected["last price, through transactions"] = np.mean(last)
        for words, value in expected.items():
            np.testing.assert_allclose(column(features, words)[row], value, rtol=1e-4, err_msg=words)


def test_labels_of_the_past_are_those_known_by_then(shop: Any) -> None:
    preparation, features, train = shop
    labelled = train + preparation.examples["validation"]
    known = labelled.times + np.timedelta64(timedelta(days=7))
    keys = np.array(labelled.keys.to_pylist())
    labels = np.array(labelled.labels.to_pylist())
    counts = column(features, "number of rows, among its own labels")
    means = column(features, "mean label, among its own labels")
    for row in range(len(train)):
        past = labels[(keys == train.keys[row].as_py()) & (known <= train.cuts[row])]
        assert counts[row] == len(past)
        np.testing.assert_allclose(means[row], past.mean() if len(past) else np.nan, rtol=1e-6)


def test_the_entity_s_own_row_and_the_calendar_are_read(shop: Any) -> None:
    _, features, train = shop
    customers = shop_tables()["customers"]
    ages = dict(zip(customers["customer_id"], customers["age"], strict=True))
    assert column(features, "age").tolist() == [ages[key] for key in train.keys.to_pylist()]
    assert column(features, "month").tolist() == [time.month for time in train.times.astype(object)]


def test_a_far_way_reads_what_the_last_link_leads_to(shop: Any) -> None:
    """How often the article that a customer bought last was bought by all, until then."""
    _, features, train = shop
    bought = shop_tables()["transactions"]
    counts = column(features, "number of rows, through transactions of the last article_id of transactions")
    for row in range(len(train)):
        rows = seen(train, row)
        if not rows:
            continue
        last = max(bought["t_dat"][at] for at in rows)
        article = max(bought["article_id"][at] for at in rows if bought["t_dat"][at] == last)
        cut = train.cuts[row].astype(object)
        times = sum(1 for a, t in zip(bought["article_id"], bought["t_dat"], strict=True) if a == article and t <= cut)
        assert counts[row] == times


def test_aged_examples_see_less(shop: Any) -> None:
    preparation, features, train = shop
    frozen = preparation.examples["validation"].frozen_at(train.times.max())
    aged = aged_copies(train, frozen, 2, seed=0)
    assert len(aged) == 2 * len(train)
    assert (aged.cuts <= aged.times).all()
    assert (aged.cuts[: len(train)] < train.times).any()
    name = "number of rows, through transactions"
    counts = column(preparation.compute(aged, train), name)
    assert (counts[: len(train)] <= column(features, name)).all()
    assert (column(preparation.compute(aged, train), "days since the last that is known") >= 0).all()


def test_sql_is_written_once_for_a_plan_and_asked_of_the_tables_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever predicts a second time does not wait for Ibis again, and sees the rows of today."""
    (tmp_path / "now").mkdir()
    with opened(write_shop(tmp_path)) as (dataset, tables):
        preparation = Prepared(dataset, tables)
        train = preparation.examples["train"]
        before = preparation.compute(train, train)

    def dearer(bought: dict[str, list[Any]]) -> dict[str, list[Any]]:
        return bought | {"price": [2 * price for price in bought["price"]]}

    with opened(write_shop(tmp_path / "now", transactions=dearer)) as (dataset, tables):
        monkeypatch.setattr(FeatureQueries, "of", None)
        after = compute_features(preparation.plan, dataset, tables, train, train)
    name = "sum of price, through transactions"
    np.testing.assert_allclose(column(after, name), 2 * column(before, name), rtol=1e-6)
    name = "number of rows, through transactions of the last article_id of transactions"
    np.testing.assert_array_equal(column(after, name), column(before, name))


def test_learners_that_predict_together_ask_the_tables_once(shop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    preparation, _, train = shop
    few = train.take(np.arange(20))
    first = preparation.compute(few, train)
    monkeypatch.setattr(OpenTables, "answer", None)
    assert preparation.compute(few, train) is first
    with pytest.raises(TypeError):
        preparation.compute(train, train)


LATER = START + timedelta(days=120)


@st.composite
def futures(draw: st.DrawFn) -> dict[str, list[Any]]:
    """The transactions with all that come after a day deleted, moved or changed, or more of them."""
    bought = shop_tables()["transactions"]
    rows: list[list[Any]] = [list(row) for row in zip(*bought.values(), strict=True)]
    kept = [row for row in rows if row[2] <= LATER]
    after = [row for row in rows if row[2] > LATER]
    fate = draw(st.sampled_from(["deleted", "moved", "changed", "more"]))
    if fate == "deleted":
        after = after[: draw(st.integers(0, 20))]
    if fate == "moved":
        after = [[*row[:2], row[2] + timedelta(days=draw(st.integers(0, 50))), row[3]] for row in after]
    if fate == "changed":
        after = [["c1", row[1], row[2], draw(st.floats(-1e6, 1e6))] for row in after[:50]]
    if fate == "more":
        after = after * 3
    rows = draw(st.permutations(kept[-40:])) + kept[:-40] + after
    return dict(zip(bought, map(list, zip(*rows, strict=True)), strict=True))


@pytest.fixture(scope="module")
def past(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, Examples, Examples, Features]:
    """A plan, the examples up to the day, all whose labels are known, and the features as they are."""
    with opened(write_shop(tmp_path_factory.mktemp("past"))) as (dataset, tables):
        preparation = Prepared(dataset, tables)
        train = preparation.examples["train"]
        early = train.take(np.flatnonzero(train.times <= np.datetime64(LATER)))
        return preparation.plan, early, train, preparation.compute(early, train)


@given(changed=futures())
@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
def test_nothing_later_changes_a_feature(
    changed: dict[str, list[Any]], past: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    plan, early, train, before = past
    folder = tmp_path_factory.mktemp("future")
    document = write_shop(folder)
    pq.write_table(pa.table(changed), folder / "transactions.parquet")
    with opened(document) as (dataset, tables):
        examples, labels = (tables.engine.create_table(name, schema=_schema(t)) for name, t in _given(early, train))
        for name, table in _given(early, train):
            tables.engine.insert(name, table)
        after = Computer(plan, dataset.tables, tables, labels).compute(examples, len(early), np.float64)
    assert [each.name for each in after.columns] == [each.name for each in before.columns]
    np.testing.assert_allclose(after.values, before.values.astype(np.float64), rtol=1e-6)


def _given(early: Examples, labelled: Examples) -> list[tuple[str, pa.Table]]:
    return [("given_examples", early.table()), ("given_labels", labelled.history(timedelta(days=7)))]


def _schema(table: pa.Table) -> Any:
    import ibis

    return ibis.schema(table.schema)


def test_an_entity_that_is_not_known_yet_says_nothing(tmp_path: Path) -> None:
    """A customer's own row, and the store it links to, are seen from the day it joined on."""
    stores = {"store_id": [1, 2], "size": [10.0, 20.0]}
    visits = {"store_id": [1] + [2] * 30, "at": [START, *(START + timedelta(days=day) for day in range(30))]}

    def joined(columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
        count = len(columns["customer_id"])
        return columns | {"store_id": [2] * count, "joined": [START + timedelta(days=110)] * count}

    document = write_shop(tmp_path, customers=joined)
    pq.write_table(pa.table(stores), tmp_path / "stores.parquet")
    pq.write_table(pa.table(visits), tmp_path / "visits.parquet")
    link = [{"column": "store_id", "link_to": "stores.store_id"}]
    document["tables"][0] |= {"time_column": "joined", "foreign_keys": link}
    document["tables"] += [
        {"name": "stores", "source": str(tmp_path / "stores.parquet"), "candidate_keys": ["store_id"]},
        {"name": "visits", "source": str(tmp_path / "visits.parquet"), "time_column": "at", "foreign_keys": link},
    ]
    with opened(document) as (dataset, tables):
        preparation = Prepared(dataset, tables)
        train = preparation.examples["train"]
        features = preparation.compute(train, train)
    known = train.times >= np.datetime64(START + timedelta(days=110))
    assert 0 < known.sum() < len(train)
    np.testing.assert_array_equal(np.isnan(column(features, "age")), ~known)
    visited = column(features, "number of rows, through visits of the last store_id of customers")
    np.testing.assert_array_equal(np.nan_to_num(visited), np.where(known, 30, 0))
