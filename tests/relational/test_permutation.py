"""The table that carries the signal is the important one, and dealing leaves everything else as it was."""

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tuneloop.relational import Dataset, permutation
from tuneloop.relational.boosted_nodes import BoostedNodes
from tuneloop.relational.examples import Examples
from tuneloop.relational.learner import Folds, Silent
from tuneloop.relational.opening import OpenTables, open_tables
from tuneloop.relational.permutation import dealt, importance_by_table
from tuneloop.relational.sources import Sources

CUSTOMERS, ARTICLES, ROWS = 80, 30, 1500
NOW = datetime(2024, 6, 1)
NAMES = ("customers", "articles", "transactions", "visits")
Signal = Callable[[OpenTables], Any]


def document(folder: Path) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    days = rng.integers(0, 150, ROWS)
    when = [datetime(2024, 1, 1) + timedelta(days=int(day)) for day in days]
    who = rng.choice(CUSTOMERS, ROWS, p=rng.dirichlet(np.ones(CUSTOMERS)))
    columns: dict[str, dict[str, Any]] = {
        "customers": {"customer_id": np.arange(CUSTOMERS), "age": rng.integers(18, 80, CUSTOMERS)},
        "articles": {"article_id": np.arange(ARTICLES), "price": rng.uniform(5, 90, ARTICLES)},
        "transactions": {"customer_id": who, "article_id": rng.integers(0, ARTICLES, ROWS), "t_dat": when},
        "visits": {"customer_id": rng.integers(0, CUSTOMERS, ROWS), "seconds": rng.random(ROWS), "t_dat": when},
    }
    for name, values in columns.items():
        pq.write_table(pa.table(values), folder / f"{name}.parquet")
    to_customer = {"column": "customer_id", "link_to": "customers.customer_id"}
    to_article = {"column": "article_id", "link_to": "articles.article_id"}
    keys = {"customers": ["customer_id"], "articles": ["article_id"]}
    links = {"transactions": [to_customer, to_article], "visits": [to_customer]}
    return {
        "name": "shop",
        "tables": [
            {
                "name": name,
                "source": str(folder / f"{name}.parquet"),
                "candidate_keys": keys.get(name, []),
                "foreign_keys": links.get(name, []),
                "time_column": "t_dat" if name in links else None,
            }
            for name in NAMES
        ],
        "task": {
            "name": "value",
            "task_type": "regression",
            "target_entity": to_customer,
            "time_column": "timestamp",
            "label_column": "value",
            "source": {"train": "none", "validation": "none"},
        },
    }


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[tuple[Dataset, OpenTables]]:
    dataset = Dataset.parse(document(tmp_path))
    with open_tables({table.name: table.source for table in dataset.tables}, Sources()) as data:
        yield dataset, data


def bought_often(data: OpenTables) -> Any:
    return data["transactions"].group_by("customer_id").agg(value=lambda t: t.count().cast("float64"))


def bought_dear(data: OpenTables) -> Any:
    both = data["transactions"].join(data["articles"], "article_id")
    return both.group_by("customer_id").agg(value=both.price.mean())


def is_old(data: OpenTables) -> Any:
    return data["customers"].select("customer_id", value=lambda t: t.age.cast("float64"))


def tables_of(data: OpenTables) -> list[tuple[str]]:
    """What lies in the engine, temporary tables too."""
    engine: Any = data.engine
    return sorted(engine.con.sql("SELECT table_name FROM duckdb_tables()").fetchall())


def known(signal: Signal, data: OpenTables, keys: Any) -> np.ndarray:
    found = {row["customer_id"]: row["value"] for row in signal(data).to_pyarrow().to_pylist()}
    return np.array([found.get(key, 0.0) for key in keys.to_pylist()], float)


def examples_of(signal: Signal, data: OpenTables) -> Examples:
    keys = pa.chunked_array([pa.array(np.arange(0, CUSTOMERS, 2))])
    times = np.full(len(keys), np.datetime64(NOW, "us"))
    return Examples(keys, times, times.copy(), pa.chunked_array([pa.array(known(signal, data, keys))]))


@pytest.mark.parametrize(
    ("signal", "needed"),
    [(bought_often, ["transactions"]), (bought_dear, ["transactions", "articles"]), (is_old, ["customers"])],
)
def test_the_tables_that_carry_the_signal_are_the_important_ones(shop: Any, signal: Signal, needed: list[str]) -> None:
    dataset, data = shop
    examples = examples_of(signal, data)
    before = tables_of(data)

    def predict(dataset: Dataset, data: OpenTables, examples: Examples, labelled: Any, watcher: Any) -> np.ndarray:
        return known(signal, data, examples.keys)

    found = importance_by_table(predict, dataset, data, examples, None, watcher=Silent(), repeats=2)
    assert list(found)[: len(needed)] == needed
    spread = examples.labels.to_numpy().std()
    assert all(found[name] > 0.5 * spread for name in needed)
    assert {found[name] for name in NAMES if name not in needed} == {0.0}
    assert tables_of(data) == before
    again = importance_by_table(predict, dataset, data, examples, None, watcher=Silent(), repeats=2)
    assert again == pytest.approx(found)


def test_of_a_real_learner_the_signal_s_table_is_the_important_one(shop: Any, tmp_path: Path) -> None:
    dataset, data = shop
    keys = pa.chunked_array([pa.array(np.tile(np.arange(CUSTOMERS), 4))])
    times = np.full(len(keys), np.datetime64(NOW, "us"))
    labels = pa.chunked_array([pa.array(known(bought_often, data, keys))])
    examples = Examples(keys, times, times.copy(), labels)
    learner = BoostedNodes(dataset, data, Folds(examples, examples), seed=0, work_dir=tmp_path)
    learner.prepare(Silent())
    params = learner.defaults() | {"learning_rate": 0.2, "bags": 1, "num_leaves": 6, "min_data_in_leaf": 5}
    fitted = learner.fit(params, seed=0, watcher=Silent()).fitted
    found = importance_by_table(fitted.predict, dataset, data, examples, None, watcher=Silent(), repeats=1)
    assert next(iter(found)) == "transactions"
    assert found["transactions"] > 5 * max(abs(value) for name, value in found.items() if name != "transactions")


@pytest.mark.parametrize("copied", [0, permutation.MOST_COPIED])
@pytest.mark.parametrize("name", NAMES)
def test_dealing_moves_rows_and_keeps_everything_else(
    shop: Any, name: str, copied: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(permutation, "MOST_COPIED", copied)
    dataset, data = shop
    examples = examples_of(is_old, data)
    table = dataset.table(name)
    with dealt(dataset, data, table, examples, seed=0) as tables:
        assert tables.engine is data.engine and all(tables[each] is data[each] for each in NAMES if each != name)
        before, after = data[name].to_pyarrow(), tables[name].to_pyarrow()
        assert after.schema.names == before.schema.names and len(after) == len(before)
        for column in before.column_names:
            one, other = before[column].to_pylist(), after[column].to_pylist()
            if column in [key.column for key in table.foreign_keys]:
                counts, moved = np.unique(one, return_counts=True), np.unique(other, return_counts=True)
                assert sorted(counts[1]) == sorted(moved[1]) and counts[1].tolist() != moved[1].tolist()
            else:
                assert sorted(one) == sorted(other)
        if name == "customers":
            ages = [dict(zip(*each.to_pydict().values(), strict=True)) for each in (before, after)]
            assert sum(ages[0][key] == ages[1][key] for key in ages[0]) < 10
            # Those asked about swap with one another.
            asked = set(examples.keys.to_pylist())
            assert sorted(ages[0][key] for key in asked) == sorted(ages[1][key] for key in asked)
        if name == "transactions":
            asked = set(examples.keys.to_pylist())
            assert sum(key in asked for key in before["customer_id"].to_pylist()) == sum(
                key in asked for key in after["customer_id"].to_pylist()
            )


def test_tables_that_there_is_no_time_for_are_left_out_and_named(shop: Any) -> None:
    dataset, data = shop
    said: list[str] = []

    class Listening(Silent):
        def log(self, line: str) -> None:
            said.append(line)

    def predict(dataset: Dataset, data: OpenTables, examples: Examples, labelled: Any, watcher: Any) -> np.ndarray:
        return np.zeros(len(examples))

    examples = examples_of(is_old, data)
    assert importance_by_table(predict, dataset, data, examples, None, watcher=Listening(), seconds=0) == {}
    assert said == ["no time to measure what these tables are worth: customers, articles, transactions, visits"]


def test_a_watcher_can_end_it_and_nothing_is_left_behind(shop: Any) -> None:
    dataset, data = shop
    before = tables_of(data)
    calls = 0

    def predict(dataset: Dataset, data: OpenTables, examples: Examples, labelled: Any, watcher: Any) -> np.ndarray:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return np.zeros(len(examples))

    with pytest.raises(KeyboardInterrupt):
        importance_by_table(predict, dataset, data, examples_of(is_old, data), None, watcher=Silent())
    assert tables_of(data) == before
