"""Predictions that came with labels are measured as their task says."""

from typing import Any

import pyarrow as pa
import pytest

from tuneloop.relational.dataset import Dataset
from tuneloop.relational.model import TableModel
from tuneloop.relational.scoring import score


def model_of(task_type: str, classes: tuple[str, ...] = (), **more: Any) -> TableModel:
    entity = {"column": "id", "link_to": "t.id"}
    if task_type.endswith("link_prediction"):
        more |= {"source_entity": entity, "target_entity": {"column": "label", "link_to": "t.id"}}
    else:
        more |= {"target_entity": entity, "label_column": "label"}
    tables = [{"name": "t", "source": "t.csv", "candidate_keys": ["id"]}]
    task = {"name": "x", "task_type": task_type, "source": {"train": "a.csv", "validation": "b.csv"}, **more}
    return TableModel(Dataset.parse({"name": "d", "tables": tables, "task": task}), (), classes)


def labelled(*labels: Any) -> pa.Table:
    return pa.table({"id": list(range(len(labels))), "label": list(labels)})


def test_probabilities_of_a_binary_label() -> None:
    model = model_of("binary_classification", evaluation_metric="accuracy")
    found = score(model, labelled(1, 0, 1, None), pa.table({"prediction": [0.9, 0.6, 0.7, 0.1]}))
    assert next(iter(found)) == "accuracy"
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert (found["roc_auc"], found["recall"], found["precision"]) == (1.0, 1.0, pytest.approx(2 / 3))


def test_what_is_not_defined_is_left_out() -> None:
    model = model_of("binary_classification")
    found = score(model, labelled(1, 1), pa.table({"prediction": [0.9, 0.6]}))
    assert "roc_auc" not in found and found["accuracy"] == 1.0
    assert score(model, labelled(None, None).cast(pa.schema({"id": pa.int64(), "label": pa.int64()})),
                 pa.table({"prediction": [0.9, 0.6]})) == {}  # fmt: skip


def test_numbers() -> None:
    found = score(model_of("regression"), labelled(1.0, 2.0), pa.table({"prediction": [2.0, 2.5]}))
    assert (found["mae"], found["rmse"]) == (0.75, pytest.approx(0.625**0.5))


def test_one_class_and_several() -> None:
    each = pa.table({"prediction": ["a", "b"], "probabilities": [{"a": 0.8, "b": 0.2}, {"a": 0.4, "b": 0.6}]})
    found = score(model_of("multiclass_classification", ("a", "b")), labelled("a", "a"), each)
    assert found["accuracy"] == found["micro_f1"] == 0.5
    assert score(model_of("multiclass_classification", ("a", "b")), labelled("a", "new"), each) == {}
    found = score(model_of("multilabel_classification", ("a", "b")), labelled(["a"], ["a", "b"]), each)
    assert found["multilabel_precision_micro"] == 1.0


@pytest.mark.parametrize("keys", [pa.int64(), pa.string()])
def test_links(keys: pa.DataType) -> None:
    kind = pa.list_(pa.struct({"key": keys, "score": pa.float64()}))
    word = str if keys == pa.string() else int

    def links(*found: int) -> list[dict[str, Any]]:
        return [{"key": word(key), "score": 1.0 / (place + 1)} for place, key in enumerate(found)]

    model = model_of("link_prediction", evaluation_metric="map_at_2")
    predicted = pa.table({"prediction": pa.array([links(7, 8), [], links(9)], kind)})
    entities = pa.table({"id": [0, 1, 2], "label": pa.array([[word(8)], [word(7)], [word(9)]], pa.list_(keys))})
    found = score(model, entities, predicted)
    assert found == {
        "map_at_2": pytest.approx(0.5),
        "precision_at_2": pytest.approx(1 / 3),
        "recall_at_2": pytest.approx(2 / 3),
    }
    assert score(model, labelled(8, 7, 9), predicted) == {}
