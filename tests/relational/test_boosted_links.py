"""Links by boosted trees: learnt from habits, of the past alone, the same after a round through files."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.links import (
    ARTICLES,
    CUSTOMERS,
    POPULAR,
    SPLITS,
    TEST_DAY,
    asked,
    bought_pairs,
    changed_later,
    habit_tables,
    opened,
    predicted,
    write_habits,
)
from support.tables import START
from tuneloop.errors import InvalidInput
from tuneloop.relational import Dataset, boosted_links
from tuneloop.relational.boosted_links import BoostedLinks, FittedBoostedLinks
from tuneloop.relational.examples import Examples, read_examples
from tuneloop.relational.learner import Folds, Links, Run, Silent, learners_for
from tuneloop.relational.link_features import LinkWorld
from tuneloop.relational.metrics import measure_links
from tuneloop.relational.opening import OpenTables

K = 5


def examples_of(dataset: Dataset, data: OpenTables) -> dict[str, Examples]:
    return read_examples(dataset.task, {name: data[f"task.{name}"] for name in SPLITS})


def learnt(document: dict[str, Any], folder: Path) -> Run:
    with opened(document) as (dataset, data):
        examples = examples_of(dataset, data)
        folds = Folds(examples["train"], examples["validation"], examples["test"])
        learner = BoostedLinks(dataset, data, folds, seed=0, work_dir=folder)
        learner.prepare(Silent())
        return learner.fit(learner.defaults() | {"learning_rate": 0.1}, seed=0, watcher=Silent())


@pytest.fixture(scope="module")
def habits(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Run]:
    folder = tmp_path_factory.mktemp("habits")
    document = write_habits(folder)
    return document, learnt(document, folder)


def test_links_are_learnt_from(habits: tuple[dict[str, Any], Run]) -> None:
    document, run = habits
    with opened(document) as (dataset, data):
        assert learners_for(dataset)["boosted"] is BoostedLinks
        examples = examples_of(dataset, data)
        links = run.fitted.predict(dataset, data, examples["test"], None, Silent())
    assert isinstance(links, Links)
    test = examples["test"].labels
    bought = habit_tables()["transactions"]["article_id"]
    best = [int(article) for article in np.argsort(-np.bincount(bought))[:K]]
    popular = Links(pa.array(best * len(test)), np.tile(-np.arange(K, dtype=float), (len(test), 1)))
    assert measure_links("map_at_5", test, links) > 1.5 * measure_links("map_at_5", test, popular)
    assert run.value == measure_links("map_at_5", examples["validation"].labels, run.predictions)
    assert (np.diff(links.scores, axis=1) <= 0).all()
    assert links.keys.type == pa.int64()
    importances = run.fitted.importances()
    assert sum(each.share for each in importances) <= 1.0001
    assert importances[0].share >= importances[-1].share
    assert {each.table for each in importances} <= {"customers", "articles", "transactions"}


def test_a_round_through_files_changes_nothing(habits: tuple[dict[str, Any], Run], tmp_path: Path) -> None:
    document, run = habits
    run.fitted.save(tmp_path)
    examples = asked([f"c{number}" for number in range(CUSTOMERS)])
    before = predicted(run, document, examples)
    loaded = Run(FittedBoostedLinks.load(tmp_path), 0.0, before)
    after = predicted(loaded, document, examples)
    assert before.keys.equals(after.keys)
    assert np.array_equal(before.scores, after.scores)
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".txt"}
    assert loaded.fitted.importances() == run.fitted.importances()


def test_who_was_asked_beside_changes_nothing(habits: tuple[dict[str, Any], Run]) -> None:
    document, run = habits
    everybody = predicted(run, document, asked([f"c{number}" for number in range(CUSTOMERS)]))
    alone = predicted(run, document, asked(["c11"]))
    assert alone.keys.equals(everybody.keys.slice(11 * K, K))
    assert np.allclose(alone.scores[0], everybody.scores[11])


def test_who_was_never_seen_gets_what_is_popular(habits: tuple[dict[str, Any], Run]) -> None:
    document, run = habits
    links = predicted(run, document, asked(["nobody", "c3"]))
    bought = habit_tables()["transactions"]
    seen = [a for a, when in zip(bought["article_id"], bought["t_dat"], strict=True) if (when - START).days <= TEST_DAY]
    popular = np.argsort(-np.bincount(seen, minlength=ARTICLES))[:15]
    first = links.keys.slice(0, K).to_pylist()
    assert first[0] == POPULAR
    assert set(first) <= set(popular.tolist())
    assert np.isfinite(links.scores).all()


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_the_future_changes_nothing(habits: tuple[dict[str, Any], Run], tmp_path: Path, data: st.DataObject) -> None:
    document, run = habits
    other = write_habits(tmp_path, changed_later(data.draw, TEST_DAY))
    some = asked([f"c{number}" for number in range(0, CUSTOMERS, 3)])
    before, after = predicted(run, document, some), predicted(run, other, some)
    assert before.keys.equals(after.keys)
    assert np.allclose(before.scores, after.scores, rtol=1e-5)
    one, two = (features_of(run, each, some) for each in (document, other))
    assert np.array_equal(one[0], two[0])
    assert np.allclose(one[1], two[1], rtol=1e-5, atol=1e-6, equal_nan=True)


def features_of(run: Run, document: dict[str, Any], examples: Examples) -> tuple[np.ndarray, np.ndarray]:
    """Candidates, and their features, as learning would see them."""
    assert isinstance(run.fitted, FittedBoostedLinks)
    with opened(document) as (dataset, data):
        batches = list(LinkWorld(dataset, data, run.fitted.plan).batches(examples, Silent()))
    return np.concatenate([each.pairs.targets for each in batches]), np.concatenate([each.values for each in batches])


def test_a_database_that_ended_earlier_shows_no_more(habits: tuple[dict[str, Any], Run], tmp_path: Path) -> None:
    document, run = habits
    customers = [f"c{number}" for number in range(CUSTOMERS)]
    frozen = asked(customers).frozen_at(np.datetime64(START + timedelta(days=180), "us"))
    tables = habit_tables()
    rows = [row for row in zip(*tables["transactions"].values(), strict=True) if (row[2] - START).days <= 180]
    columns = dict(zip(tables["transactions"], map(list, zip(*rows, strict=True)), strict=True))
    ended = write_habits(tmp_path, tables | {"transactions": columns})
    before, after = predicted(run, document, frozen), predicted(run, ended, frozen)
    assert before.keys.equals(after.keys)
    assert not before.keys.equals(predicted(run, document, asked(customers)).keys)


def test_what_comes_again_was_there_before(tmp_path: Path) -> None:
    document = write_habits(tmp_path, task_type="repeated_link_prediction")
    run = learnt(document, tmp_path)
    links = predicted(run, document, asked([f"c{number}" for number in range(20)] + ["nobody"]))
    bought = habit_tables()["transactions"]
    for number in range(20):
        earlier = {
            article
            for customer, article, when in zip(*bought.values(), strict=True)
            if customer == f"c{number}" and (when - START).days <= TEST_DAY
        }
        found = links.keys.slice(number * K, K).to_pylist()
        assert set(found) - {None} <= earlier
        assert len(set(found) - {None}) == min(K, len(earlier))
    assert links.keys.slice(20 * K, K).null_count == K
    assert np.isneginf(links.scores[20]).all()


def test_fitting_again_learns_from_validation_too(tmp_path: Path) -> None:
    document = write_habits(tmp_path)
    with opened(document) as (dataset, data):
        examples = examples_of(dataset, data)
        learner = BoostedLinks(
            dataset, data, Folds(examples["train"], examples["validation"]), seed=0, work_dir=tmp_path
        )
        learner.prepare(Silent())
        one, two = (learner.refit(learner.defaults(), {"rounds": 30}, seed=5, watcher=Silent()) for _ in range(2))
        first, second = (each.predict(dataset, data, examples["test"], None, Silent()) for each in (one, two))
        test = examples["test"].labels
        assert measure_links("map_at_5", test, first) > 0.2
        assert np.array_equal(first.scores, second.scores)


def test_features_in_files_are_the_same(
    habits: tuple[dict[str, Any], Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document, run = habits
    monkeypatch.setattr(boosted_links, "MAX_IN_MEMORY", 10)
    again = learnt(document, tmp_path)
    assert list(tmp_path.glob("*.npy"))
    assert again.value == run.value
    assert again.predictions.keys.equals(run.predictions.keys)


def test_pairs_and_lists_read_alike(tmp_path: Path) -> None:
    document = write_habits(tmp_path)
    with opened(document) as (dataset, data):
        pairs = examples_of(dataset, data)
    for name, days in SPLITS.items():
        rows = pa.table(bought_pairs(habit_tables(), days))
        lists = rows.group_by(["customer_id", "timestamp"]).aggregate([("article_id", "list")])
        lists = lists.rename_columns(["customer_id", "timestamp", "article_id"])
        pq.write_table(lists, tmp_path / f"next_{name}.parquet")
    with opened(document) as (dataset, data):
        lists = examples_of(dataset, data)
    for name in SPLITS:
        assert as_dict(pairs[name]) == as_dict(lists[name])
        assert len(pairs[name]) == len(as_dict(pairs[name]))


def as_dict(examples: Examples) -> dict[tuple[str, Any], list[int]]:
    rows = zip(examples.keys.to_pylist(), examples.times.tolist(), examples.labels.to_pylist(), strict=True)
    return {(key, time): sorted(links) for key, time, links in rows}


def test_the_longest_of_several_tables_of_links_is_learnt_from(tmp_path: Path) -> None:
    document = write_habits(tmp_path)
    pq.write_table(pq.read_table(tmp_path / "transactions.parquet").slice(0, 9), tmp_path / "returns.parquet")
    returns = document["tables"][2] | {"name": "returns", "source": str(tmp_path / "returns.parquet")}
    document["tables"].insert(2, returns)
    run = learnt(document, tmp_path)
    assert run.value > 0.2
    assert "returns" not in {each.table for each in run.fitted.importances()}


def test_what_cannot_be_learnt_is_said(tmp_path: Path) -> None:
    document = write_habits(tmp_path)
    document["tables"][2]["foreign_keys"].pop()
    with pytest.raises(InvalidInput, match=r"no table links customers.customer_id to articles.article_id"):
        learnt(document, tmp_path)
    document = write_habits(tmp_path)
    del document["tables"][2]["time_column"]
    with pytest.raises(InvalidInput, match="'transactions' has no time_column"):
        learnt(document, tmp_path)
