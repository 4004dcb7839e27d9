"""Entities of requests and of tables, and predictions as JSON."""

import math
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tuneloop.errors import InvalidInput
from tuneloop.relational.entities import entities_table, plain_predictions, read_entities
from tuneloop.relational.opening import open_tables
from tuneloop.relational.schema import ForeignKey, LinkTask, NodeTask, Splits
from tuneloop.relational.sources import Sources

SPLITS = Splits(train="a", validation="b")
CHURN = NodeTask(
    "churn",
    task_type="binary_classification",
    target_entity=ForeignKey("id", link_to="t.id"),
    time_column="at",
    label_column="label",
    source=SPLITS,
)
LINKS = LinkTask(
    "next",
    task_type="link_prediction",
    source_entity=ForeignKey("id", link_to="t.id"),
    target_entity=ForeignKey("other", link_to="u.id"),
    time_column="at",
    source=SPLITS,
)


@pytest.mark.parametrize(
    "time",
    [
        1714564800,
        1714564800.0,
        "2024-05-01T12:00:00",
        "2024-05-01 12:00",
        "2024-05-01T14:00:00+02:00",
        "2024-05-01T12:00Z",
    ],
)
def test_a_time_may_be_said_in_several_ways(time: Any) -> None:
    table = entities_table(CHURN, [{"id": 7, "at": time}, {"id": 8, "at": "2024-05-02"}])
    assert table.to_pylist() == [
        {"id": 7, "at": datetime(2024, 5, 1, 12)},
        {"id": 8, "at": datetime(2024, 5, 2)},
    ]


@pytest.mark.parametrize(
    ("row", "field", "problem"),
    [
        ({"id": 1}, "entities.1", "'at' is missing"),
        ({"id": None, "at": 1}, "entities.1", "'id' is missing"),
        ({"customer": 1, "at": 1}, "entities.1", "'id' is missing: each entity has 'id' and 'at'"),
        ({"id": 1, "at": 1, "label": 0}, "entities.1", "'label' is no column of an entity"),
        ({"id": 1, "at": "soon"}, "entities.1.at", "no time"),
        ({"id": 1, "at": True}, "entities.1.at", "no time"),
        ({"id": 1, "at": 1e300}, "entities.1.at", "no time"),
        ({"id": "x", "at": 1}, "entities", "not of one type"),
        ({"id": 1.5, "at": 1}, "entities", "not of one type"),
        ({"id": 2**70, "at": 1}, "entities", "not of one type"),
    ],
)
def test_wrong_entities_are_named(row: dict[str, Any], field: str, problem: str) -> None:
    with pytest.raises(InvalidInput, match=problem) as told:
        entities_table(CHURN, [{"id": 3, "at": 0}, row])
    assert told.value.field == field


def test_entities_of_a_table_keep_their_order_and_labels(tmp_path: Path) -> None:
    rows = "\n".join(f"{number},2024-05-01 12:00:00,{number % 2},x" for number in range(5000, 0, -1))
    (tmp_path / "e.csv").write_text(f"id,at,label,more\n{rows}\n")
    with open_tables({"e": f"{tmp_path}/e.csv"}, Sources(), threads=1) as tables:
        found = read_entities(CHURN, tables["e"])
    assert found.column_names == ["id", "at", "label"]
    assert found["id"].to_pylist() == list(range(5000, 0, -1))
    assert found["at"][0].as_py() == datetime(2024, 5, 1, 12)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("id,when\n1,2024-01-01\n", "no column 'at'.*id, when"),
        ("id,at\n1,0.5\n", "no time"),
        ("id,at\n1,2024-01-01\n,2024-01-01\n", "'id' is empty in 1 of 2 rows"),
        ("id,at\n", "no rows"),
    ],
)
def test_a_table_without_whom_or_when_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "e.csv").write_text(text)
    with open_tables({"e": f"{tmp_path}/e.csv"}, Sources()) as tables, pytest.raises(InvalidInput, match=problem):
        read_entities(CHURN, tables["e"])


def test_predictions_are_json() -> None:
    answer = pa.table({"id": [1, 2], "at": [0, 0], "prediction": [0.25, math.nan]})
    assert plain_predictions(CHURN, answer) == [{"prediction": 0.25}, {"prediction": None}]
    classes = pa.table(
        {"id": [1], "prediction": ["x"], "probabilities": [{"x": 0.75, "y": 0.25}], "embedding": [[0.5]]}
    )
    assert plain_predictions(CHURN, classes) == [
        {"prediction": "x", "probabilities": {"x": 0.75, "y": 0.25}, "embedding": [0.5]}
    ]
    links = pa.table({"id": [1], "prediction": [[{"key": "a", "score": 2.0}, {"key": "b", "score": 1.0}]]})
    assert plain_predictions(LINKS, links) == [{"links": [{"key": "a", "score": 2.0}, {"key": "b", "score": 1.0}]}]
