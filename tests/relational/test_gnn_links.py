"""The graph learner of links: finds habits and likings, sees nothing later, and is the same after it was stored."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.learning import Listener
from support.links import (
    CUSTOMERS,
    SPLITS,
    TEST_DAY,
    asked,
    changed_later,
    habit_tables,
    opened,
    predicted,
    write_habits,
)
from support.tables import START
from tuneloop.errors import InvalidInput
from tuneloop.relational.examples import Examples, read_examples
from tuneloop.relational.learner import Folds, Links, Run, Silent, learners_for
from tuneloop.relational.metrics import measure_links

pytest.importorskip("torch_geometric")
from tuneloop.relational import link_training
from tuneloop.relational.gnn_links import GnnLinks, GnnLinksFitted

K = 5
QUICK = {"channels": 16, "epochs": 12, "patience": 12, "batch_size": 32, "dropout": 0.1, "anonymity": 0.2}


def learnt(document: dict[str, Any], folder: Path, listener: Silent | None = None, **params: Any) -> Run:
    with opened(document) as (dataset, data):
        found = read_examples(dataset.task, {name: data[f"task.{name}"] for name in SPLITS})
        learner = learners_for(dataset)["gnn"](
            dataset, data, Folds(found["train"], found["validation"]), seed=0, work_dir=folder
        )
        assert isinstance(learner, GnnLinks)
        learner.prepare(Silent())
        return learner.fit({**QUICK, **params}, seed=0, watcher=listener or Silent())


def value_of(run: Run, document: dict[str, Any]) -> float:
    """MAP of the test examples."""
    with opened(document) as (dataset, data):
        test = read_examples(dataset.task, {name: data[f"task.{name}"] for name in SPLITS})["test"]
        links = run.fitted.predict(dataset, data, test, None, Silent())
    assert isinstance(links, Links)
    return measure_links("map_at_5", test.labels, links)


def popular_value(document: dict[str, Any]) -> float:
    """What naming the most bought articles to everybody comes to."""
    bought = habit_tables()["transactions"]["article_id"]
    best = [int(article) for article in np.argsort(-np.bincount(bought))[:K]]
    with opened(document) as (dataset, data):
        test = read_examples(dataset.task, {name: data[f"task.{name}"] for name in SPLITS})["test"].labels
    return measure_links(
        "map_at_5", test, Links(pa.array(best * len(test)), np.tile(-np.arange(K, dtype=float), (len(test), 1)))
    )


@pytest.fixture(scope="module")
def habits(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Run, Listener]:
    folder = tmp_path_factory.mktemp("habits")
    document = write_habits(folder)
    listener = Listener()
    return document, learnt(document, folder, listener), listener


def test_habits_are_learnt_and_reported_epoch_by_epoch(habits: tuple[dict[str, Any], Run, Listener]) -> None:
    document, run, listener = habits
    assert value_of(run, document) > 1.5 * popular_value(document)
    names = {"train_loss", "train_metric_map_at_5", "val_loss", "val_metric_map_at_5", "learning_rate"}
    assert all(set(each) == names for each in listener.reported)
    assert listener.reported[-1]["train_loss"] < listener.reported[0]["train_loss"]
    assert run.value == pytest.approx(max(each["val_metric_map_at_5"] for each in listener.reported), abs=1e-6)
    with opened(document) as (dataset, data):
        validation = read_examples(dataset.task, {name: data[f"task.{name}"] for name in SPLITS})["validation"]
    assert isinstance(run.predictions, Links)
    assert run.value == measure_links("map_at_5", validation.labels, run.predictions)


def test_both_parts_learn_by_themselves(tmp_path: Path) -> None:
    """Each article is bought again by whom it suits: the way back finds that, and so do vectors of both."""
    document = write_habits(tmp_path)
    for variant, epochs in (("id_aware", 12), ("two_tower", 32)):
        run = learnt(document, tmp_path, variant=variant, epochs=epochs, patience=epochs)
        assert value_of(run, document) > 1.2 * popular_value(document), variant


def test_of_many_targets_some_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_training, "DRAWN", 8)
    document = write_habits(tmp_path)
    assert value_of(learnt(document, tmp_path), document) > 1.3 * popular_value(document)


def test_a_round_through_files_changes_nothing(habits: tuple[dict[str, Any], Run, Listener], tmp_path: Path) -> None:
    document, run, _ = habits
    run.fitted.save(tmp_path)
    loaded = Run(GnnLinksFitted.load(tmp_path), 0.0, run.predictions)
    examples = asked([f"c{number}" for number in range(CUSTOMERS)])
    before, after = (predicted(each, document, examples) for each in (run, loaded))
    assert before.keys.equals(after.keys) and before.keys.type == pa.int64()
    assert np.array_equal(before.scores, after.scores)
    assert (np.diff(before.scores, axis=1) <= 0).all()
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}
    with opened(document) as (dataset, data):
        embedded = loaded.fitted.embed(dataset, data, examples, None, Silent())
    assert embedded is not None and embedded.shape == (CUSTOMERS, QUICK["channels"])


def test_who_was_asked_beside_changes_nothing(habits: tuple[dict[str, Any], Run, Listener]) -> None:
    document, run, _ = habits
    others = asked([f"c{number}" for number in range(CUSTOMERS)], day=TEST_DAY + 3)
    together = predicted(run, document, asked(["c11", "c12"]) + others)
    alone = predicted(run, document, asked(["c11"]))
    assert alone.keys.equals(together.keys.slice(0, K))
    np.testing.assert_allclose(alone.scores[0], together.scores[0], rtol=1e-5)


def test_newcomers_and_new_articles_are_predicted(habits: tuple[dict[str, Any], Run, Listener], tmp_path: Path) -> None:
    _, run, _ = habits
    tables = habit_tables()
    tables["articles"] = {name: [*values, values[0]] for name, values in tables["articles"].items()}
    tables["articles"]["article_id"][-1] = 1000  # like the first, but nobody bought it yet
    other = write_habits(tmp_path, tables, evaluation_metric="map_at_61")
    links = predicted(run, other, asked(["nobody", "c3"]))
    assert set(links.keys.slice(0, 61).to_pylist()) == {*range(60), 1000}
    assert np.isfinite(links.scores).all()


def test_only_earlier_links_are_predicted_again_where_that_is_the_task(tmp_path: Path) -> None:
    document = write_habits(tmp_path, task_type="repeated_link_prediction")
    run = learnt(document, tmp_path, epochs=2)
    links = predicted(run, document, asked(["c3", "nobody"]))
    bought = habit_tables()["transactions"]
    known = {
        article
        for who, article, when in zip(*bought.values(), strict=True)
        if who == "c3" and (when - START).days <= TEST_DAY
    }
    first = links.keys.slice(0, K)
    assert set(first.drop_null().to_pylist()) <= known and first.null_count == 0
    assert links.keys.slice(K, K).null_count == K and np.isneginf(links.scores[1]).all()


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_the_future_changes_nothing(
    habits: tuple[dict[str, Any], Run, Listener], tmp_path: Path, data: st.DataObject
) -> None:
    document, run, _ = habits
    other = write_habits(tmp_path, changed_later(data.draw, TEST_DAY))
    some = asked([f"c{number}" for number in range(0, CUSTOMERS, 3)])
    before, after = predicted(run, document, some), predicted(run, other, some)
    np.testing.assert_allclose(before.scores, after.scores, rtol=1e-5, atol=1e-6)
    assert before.keys.equals(after.keys)


def test_labels_that_are_no_targets_are_said(tmp_path: Path) -> None:
    document = write_habits(tmp_path)
    with opened(document) as (dataset, data):
        found = read_examples(dataset.task, {name: data[f"task.{name}"] for name in SPLITS})
        train = found["train"]
        odd = Examples(train.keys, train.times, train.cuts, pa.chunked_array([pa.array([[9999]] * len(train))]))
        learner = GnnLinks(dataset, data, Folds(odd, found["validation"]), seed=0, work_dir=tmp_path)
        with pytest.raises(InvalidInput, match="no training example is linked to anything"):
            learner.prepare(Silent())


def test_work_ends_when_the_watcher_says_so(tmp_path: Path) -> None:
    class Impatient(Silent):
        def check(self) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learnt(write_habits(tmp_path), tmp_path, Impatient())
