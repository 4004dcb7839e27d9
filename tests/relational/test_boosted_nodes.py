"""The boosted learner learns each task type, is stored and read again, and sees nothing later than it may."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import ibis
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.special import logit

from support.tables import START, shop_document
from tuneloop.relational import Dataset
from tuneloop.relational.backtest import backtests, recent_mean
from tuneloop.relational.boosted_model import BoostedModel
from tuneloop.relational.boosted_nodes import BoostedNodes
from tuneloop.relational.examples import Examples, read_examples
from tuneloop.relational.learner import Folds, Silent, learners_for
from tuneloop.relational.metrics import measure
from tuneloop.relational.model import Part, TableModel
from tuneloop.relational.opening import OpenTables, open_tables
from tuneloop.relational.outcomes import Correction
from tuneloop.relational.permutation import dealt
from tuneloop.relational.plan import Plan
from tuneloop.relational.prepare import classes_of, compute_features, labels_of, plan_features
from tuneloop.relational.schema import METRICS
from tuneloop.relational.sources import Sources

PEOPLE, DAYS = 80, 400
GOOD = {"roc_auc": 0.75, "macro_f1": 0.6, "multilabel_auprc_macro": 0.6, "mae": 9.0}
QUICK = {"learning_rate": 0.2, "num_leaves": 6, "min_data_in_leaf": 5}


def write(folder: Path, task_type: str, bought: dict[str, Any] | None = None) -> dict[str, Any]:
    """A shop where who buys dear things goes on doing so, from one of three articles."""
    rng = np.random.default_rng(0)
    taste = rng.integers(0, 3, PEOPLE)
    who = rng.integers(0, PEOPLE, 3000)
    when = np.sort(rng.integers(0, DAYS, 3000))
    prices = (taste[who] * 30 + rng.normal(20, 5, 3000)).round(2)
    bought = bought or {
        "customer_id": [f"c{n}" for n in who],
        "article_id": taste[who].tolist(),
        "t_dat": [START + timedelta(days=int(day)) for day in when],
        "price": prices.tolist(),
    }
    pq.write_table(pa.table({"customer_id": [f"c{n}" for n in range(PEOPLE)]}), folder / "customers.parquet")
    pq.write_table(pa.table({"article_id": [0, 1, 2]}), folder / "articles.parquet")
    pq.write_table(pa.table(bought), folder / "transactions.parquet")
    for split, first, last in (("train", 60, 280), ("validation", 300, 340), ("test", 350, 390)):
        asked = rng.integers(0, PEOPLE, 500 if split == "train" else 120)
        label = {
            "binary_classification": lambda n: int(taste[n] == 2),
            "regression": lambda n: float(taste[n] * 30 + rng.normal(20, 3)),
            "multiclass_classification": lambda n: "abc"[taste[n]],
            "multilabel_classification": lambda n: ["ab"[at] for at in range(2) if taste[n] >= at],
        }[task_type]
        odd = rng.random(len(asked)) < 0.1
        columns = {
            "customer_id": [f"c{n}" for n in asked],
            "timestamp": [START + timedelta(days=int(day)) for day in rng.integers(first, last, len(asked))],
            "churn": [label(rng.integers(0, PEOPLE) if wrong else n) for n, wrong in zip(asked, odd, strict=True)],
        }
        pq.write_table(pa.table(columns), folder / f"churn_{split}.parquet")
    document = shop_document(folder)
    document["task"]["task_type"] = task_type
    return document


@contextmanager
def opened(document: dict[str, Any]) -> Iterator[tuple[Dataset, OpenTables, Folds]]:
    dataset = Dataset.parse(document)
    assert dataset.task is not None and dataset.task.source is not None
    splits = {f"task.{name}": source for name, source in dataset.task.source.items()}
    with open_tables({t.name: t.source for t in dataset.tables} | splits, Sources()) as tables:
        assert tables.problems == {}
        yield dataset, tables, Folds(**read_examples(dataset.task, {n[5:]: tables[n] for n in splits}))


def learn(dataset: Dataset, tables: OpenTables, folds: Folds, folder: Path) -> BoostedNodes:
    learner = BoostedNodes(dataset, tables, folds, seed=0, work_dir=folder)
    learner.prepare(Silent())
    return learner


@pytest.mark.parametrize("task_type", METRICS)
def test_each_task_type_is_learnt_stored_and_read_again(task_type: str, tmp_path: Path) -> None:
    with opened(write(tmp_path, task_type)) as (dataset, tables, folds):
        assert learners_for(dataset)["boosted"] is BoostedNodes
        learner = learn(dataset, tables, folds, tmp_path)
        params = json.loads(json.dumps(learner.defaults() | QUICK | {"bags": 2, "keep": 40}))
        run = learner.fit(params, seed=0, watcher=Silent())
        metric = METRICS[task_type][0]
        assert run.value < GOOD[metric] if metric == "mae" else run.value > GOOD[metric]
        assert len(run.predictions) == len(folds.validation)
        fitted = learner.refit(params, json.loads(json.dumps(run.found)), seed=0, watcher=Silent())
        (tmp_path / "model").mkdir()
        fitted.save(tmp_path / "model")
        read = BoostedModel.load(tmp_path / "model")
        test = replace(folds.test, labels=None)
        before = fitted.predict(dataset, tables, test, folds.labelled, Silent())
        after = read.predict(dataset, tables, test, folds.labelled, Silent())
        labels = labels_of(dataset.task, folds.test, classes_of(dataset.task, folds.train))
    np.testing.assert_array_equal(before, after)
    value = measure(metric, labels.values, before)
    assert value < GOOD[metric] if metric == "mae" else value > GOOD[metric]
    assert read.classes == labels.classes
    found = read.importances()
    assert len(found) <= 40
    assert [each.words for each in found] == [each.words for each in fitted.importances()]
    assert sum(each.share for each in found) == pytest.approx(1)
    assert any("price, through transactions" in each.words for each in found[:10])
    assert {each.table for each in found} <= {"customers", "articles", "transactions"}


def test_a_run_tells_what_it_predicts_of_earlier_splits(tmp_path: Path) -> None:
    with opened(write(tmp_path, "binary_classification")) as (dataset, tables, folds):
        learner = learn(dataset, tables, folds, tmp_path)
        run = learner.fit(learner.defaults() | QUICK, seed=0, watcher=Silent())
    assert run.earlier
    values = [measure("roc_auc", labels_of(dataset.task, each, ()).values, found) for each, found in run.earlier]
    assert values == run.found["values"][:-1]
    assert all(each.times.max() < folds.validation.times.min() for each, _ in run.earlier)


def test_no_file_but_json_text_and_safetensors_is_written(tmp_path: Path) -> None:
    with opened(write(tmp_path, "regression")) as (dataset, tables, folds):
        learner = learn(dataset, tables, folds, tmp_path)
        run = learner.fit(learner.defaults() | QUICK, seed=0, watcher=Silent())
    (tmp_path / "model").mkdir()
    run.fitted.save(tmp_path / "model")
    assert {path.suffix for path in (tmp_path / "model").iterdir()} == {".json", ".txt", ".safetensors"}


def test_trees_and_a_line_share_each_prediction(tmp_path: Path) -> None:
    with opened(write(tmp_path, "binary_classification")) as (dataset, tables, folds):
        learner = learn(dataset, tables, folds, tmp_path)
        settings = QUICK | {"linear_strength": 10.0}
        found, kept = [], []
        for share in (0.0, 0.25, 0.5):
            run = learner.fit(settings | {"linear_share": share}, seed=0, watcher=Silent())
            fitted = learner.refit(settings | {"linear_share": share}, run.found, seed=0, watcher=Silent())
            found.append(run.predictions)
            kept.append(fitted.predict(dataset, tables, folds.test, folds.labelled, Silent()))
        for trees, quarter, half in (found, kept):
            assert np.abs(half - trees).max() > 0.05
            np.testing.assert_allclose(quarter, (trees + half) / 2)


def test_a_plan_is_the_same_after_json(tmp_path: Path) -> None:
    with opened(write(tmp_path, "binary_classification")) as (dataset, tables, folds):
        plan = plan_features(dataset, tables, folds.train)
    assert plan.history is not None and len(plan.sources) > 2
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


def test_a_watcher_that_raises_ends_the_work(tmp_path: Path) -> None:
    class Impatient(Silent):
        def check(self) -> None:
            raise InterruptedError

    with opened(write(tmp_path, "regression")) as (dataset, tables, folds):
        learner = learn(dataset, tables, folds, tmp_path)
        with pytest.raises(InterruptedError):
            learner.fit(QUICK, seed=0, watcher=Impatient())


def test_where_predictions_are_made_from_old_rows_examples_are_tried_aged_alike_and_as_they_are(tmp_path: Path) -> None:
    with opened(write(tmp_path, "binary_classification")) as (dataset, tables, folds):
        assert [each["aged"] for each in learn(dataset, tables, folds, tmp_path).starts()] == [False, False]
        assert folds.test is not None
        ends = [each.times.min() - np.timedelta64(10, "D") for each in (folds.validation, folds.test)]
        frozen = Folds(folds.train, folds.validation.frozen_at(ends[0]), folds.test.frozen_at(ends[1]))
        learner = learn(dataset, tables, frozen, tmp_path)
        starts = learner.starts()
        assert [each["aged"] for each in starts] == [False, True, False, True]
        found = []
        for params in starts[:2]:
            run = learner.fit(params | QUICK, seed=0, watcher=Silent())
            fitted = learner.refit(params | QUICK, run.found, seed=0, watcher=Silent())
            found.append(fitted.predict(dataset, tables, frozen.test, frozen.labelled, Silent()))
    labels = labels_of(dataset.task, frozen.test, ()).values
    assert all(measure("roc_auc", labels, each) > 0.6 for each in found)
    assert not np.allclose(found[0], found[1])


def test_backtests_learn_from_what_was_known_alone(tmp_path: Path) -> None:
    horizon = timedelta(days=7)
    with opened(write(tmp_path, "binary_classification")) as (_, _, folds):
        frozen = folds.validation.frozen_at(folds.validation.times.min() - np.timedelta64(20, "D"))
    rolling = backtests(folds.train, folds.validation, horizon)
    ended = backtests(folds.train, frozen, horizon)
    assert rolling and ended
    for each in (*rolling, *ended):
        known = folds.train.times[each.train] + np.timedelta64(horizon)
        assert known.max() <= each.examples.times.min()
        assert not set(each.train) & set(each.held)
    assert all((each.examples.cuts == each.examples.times).all() for each in rolling)
    for each in ended:
        assert (each.examples.cuts < each.examples.times).all()
        assert (folds.train.times[each.train] + np.timedelta64(horizon)).max() <= each.examples.cuts.max()


def test_the_later_a_split_the_more_it_counts() -> None:
    assert recent_mean([3.0]) == 3
    assert recent_mean([1.0, 4.0, 4.0]) == pytest.approx((4 * 1 + 2 * 4 + 4) / 7)
    assert recent_mean([float("nan"), 1.0, 4.0]) == pytest.approx((2 * 1 + 4) / 3)
    assert np.isnan(recent_mean([float("nan")]))


LATER = START + timedelta(days=300)


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> tuple[TableModel, Examples, Examples, np.ndarray]:
    """A model that corrects itself, examples up to a day, the labels known, and the predictions as they are."""
    folder = tmp_path_factory.mktemp("held")
    with opened(write(folder, "binary_classification")) as (dataset, tables, folds):
        run = learn(dataset, tables, folds, folder).fit(QUICK, seed=0, watcher=Silent())
        early = folds.train.take(np.arange(0, len(folds.train), 5))
        plain = run.fitted.predict(dataset, tables, early, folds.train, Silent())
        model = TableModel(dataset, [Part(run.fitted)], correction=Correction(4, 1e-4))
        before = model.predict_examples(dataset, tables, early, folds.train, Silent())
    assert before.std() > 0.1 and np.abs(logit(before) - logit(plain)).mean() > 0.1
    return model, early, folds.train, before


@given(data=st.data())
@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
def test_nothing_later_changes_a_prediction(
    data: st.DataObject, held: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    model, early, labelled, before = held
    folder = tmp_path_factory.mktemp("future")
    document = write(folder, "binary_classification")
    bought = pq.read_table(folder / "transactions.parquet").to_pydict()
    rows = [list(row) for row in zip(*bought.values(), strict=True)]
    past, future = ([row for row in rows if (row[2] > LATER) == later] for later in (False, True))
    for row in future:
        row[2] += timedelta(days=data.draw(st.integers(0, 50)))
        row[3] = data.draw(st.floats(-1e6, 1e6))
    future = future[: data.draw(st.integers(0, len(future)))] * data.draw(st.integers(1, 3))
    changed = dict(zip(bought, map(list, zip(*(future + past), strict=True)), strict=True))
    pq.write_table(pa.table(changed), folder / "transactions.parquet")
    with opened(document) as (dataset, tables, _):
        after = model.predict_examples(dataset, tables, early, labelled, Silent())
    np.testing.assert_allclose(after, before, atol=1e-5)


def test_a_database_computes_what_files_tell(tmp_path: Path, postgresql_url: Callable[[], str]) -> None:
    url = postgresql_url().replace("postgresql+psycopg://", "postgresql://")
    document = write(tmp_path, "binary_classification")
    sources = {table["name"]: table["source"] for table in document["tables"]}
    sources |= {f"churn_{split}": source for split, source in document["task"]["source"].items()}
    engine = ibis.connect(url)
    for name, source in sources.items():
        rows = pq.read_table(source)
        engine.create_table(name, schema=ibis.schema(rows.schema))
        engine.insert(name, rows)
    engine.disconnect()
    there = json.loads(json.dumps(document))
    for table in there["tables"]:
        table["source"] = f"{url}#{table['name']}"
    there["task"]["source"] = {split: f"{url}#churn_{split}" for split in there["task"]["source"]}

    found = []
    for each in (document, there):
        with opened(each) as (dataset, tables, folds):
            assert tables.is_local == (each is document)
            plan = plan_features(dataset, tables, folds.train)
            features = compute_features(plan, dataset, tables, folds.validation, folds.labelled)
            table = next(table for table in dataset.tables if table.name == "transactions")
            with dealt(dataset, tables, table, folds.validation, seed=0) as swapped:
                assert swapped["transactions"].count().to_pyarrow() == tables["transactions"].count().to_pyarrow()
            found.append(features)
    assert [each.words for each in found[0].columns] == [each.words for each in found[1].columns]
    np.testing.assert_allclose(found[0].values, found[1].values, rtol=1e-5, atol=1e-4)
