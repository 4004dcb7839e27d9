"""Each mistake in a dataset is found before training, with its table, its column and what to do."""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from formula1 import TASKS, formula1
from support.tables import write_shop
from tuneloop.relational import Dataset
from tuneloop.relational.sources import Sources
from tuneloop.relational.validation import Problem, validate

Columns = dict[str, list[Any]]
Document = dict[str, Any]


def problems_of(document: Document) -> list[Problem]:
    return validate(Dataset.parse(document), Sources())


def test_a_sound_dataset_has_no_problems(tmp_path: Path) -> None:
    assert problems_of(write_shop(tmp_path)) == []


def replaced(column: str, change: Callable[[list[Any]], list[Any]]) -> Callable[[Columns], Columns]:
    return lambda columns: columns | {column: change(columns[column])}


# What is written wrong: the table, how, and then where the problem is and what it says.
IN_THE_DATA: list[tuple[str, Callable[[Columns], Columns], str, str | None, str]] = [
    ("customers", lambda c: {k: [*v, v[0]] for k, v in c.items()}, "customers", "customer_id", "1 duplicates"),
    (
        "customers",
        lambda c: {k: [*v, None if k == "customer_id" else v[0]] for k, v in c.items()},
        "customers",
        "customer_id",
        "1 nulls",
    ),
    (
        "transactions",
        replaced("customer_id", lambda v: ["nobody"] * 200 + v[200:]),
        "transactions",
        "customer_id",
        "200 of 800 values (25.0%) match nothing in customers.customer_id",
    ),
    ("transactions", replaced("article_id", lambda v: [str(x) for x in v]), "transactions", "article_id", "is string"),
    ("transactions", lambda c: {k: v for k, v in c.items() if k != "t_dat"}, "transactions", "t_dat", "no such column"),
    ("transactions", replaced("t_dat", lambda v: [str(x) for x in v]), "transactions", "t_dat", "not a time"),
    ("churn_train", replaced("churn", lambda v: [7, *v[1:]]), "task.train", "churn", "other values than 0 and 1: 7"),
    ("churn_train", replaced("churn", lambda v: [None, *v[1:]]), "task.train", "churn", "1 examples have no label"),
    ("churn_train", replaced("churn", lambda v: [0] * len(v)), "task.train", "churn", "in every example"),
    ("churn_test", replaced("customer_id", lambda v: ["x", *v[1:]]), "task.test", "customer_id", "match nothing"),
    ("churn_test", lambda c: {k: v[:0] for k, v in c.items()}, "task.test", None, "split is empty"),
    (
        "churn_validation",
        replaced("timestamp", lambda v: [datetime(2023, 1, 1)] * len(v)),
        "task.validation",
        "timestamp",
        "would know the future",
    ),
    ("churn_train", replaced("timestamp", lambda v: [None, *v[1:]]), "task.train", "timestamp", "have no time"),
    ("customers", lambda c: c | {"churn": [0] * len(c["age"])}, "customers", "churn", "is the label"),
]


@pytest.mark.parametrize(("table", "change", "where", "column", "said"), IN_THE_DATA)
def test_mistakes_in_the_data(
    tmp_path: Path, table: str, change: Callable[[Columns], Columns], where: str, column: str | None, said: str
) -> None:
    document = write_shop(tmp_path, **{table: change})
    found = problems_of(document)
    assert [(each.table, each.column) for each in found] == [(where, column)]
    assert said in found[0].problem
    assert found[0].fix


def test_a_few_rows_without_a_match_are_no_mistake(tmp_path: Path) -> None:
    document = write_shop(tmp_path, transactions=replaced("customer_id", lambda v: ["nobody"] * 8 + v[8:]))
    assert problems_of(document) == []


def changed(document: Document, change: Callable[[Document], Any]) -> Document:
    change(document)
    return document


IN_THE_DOCUMENT: list[tuple[Callable[[Document], Any], str, str | None, str]] = [
    (
        lambda d: d["tables"][2]["foreign_keys"][0].update(link_to="people.customer_id"),
        "transactions",
        "customer_id",
        "no table people",
    ),
    (
        lambda d: d["tables"][2]["foreign_keys"][1].update(link_to="articles.price"),
        "transactions",
        "article_id",
        "no candidate key",
    ),
    (lambda d: d["tables"][2]["foreign_keys"].pop(), "articles", None, "no key connects it"),
    (lambda d: d["tables"].append(dict(d["tables"][0])), "customers", None, "two tables have this name"),
    (lambda d: d["tables"][0].update(source="nowhere.parquet"), "customers", None, "no file"),
    (lambda d: d["tables"][0].update(exclude=["ages"]), "customers", "ages", "no such column"),
    (lambda d: d["tables"][0].update(exclude=["customer_id"]), "customers", "customer_id", "is a key"),
    (lambda d: d["tables"][0].update(columns={"region": "float"}), "customers", "region", "cannot be read as float"),
    (lambda d: d["tables"][0].update(columns={"age": "embedding"}), "customers", "age", "cannot be read as embedding"),
    (lambda d: d["tables"][2].update(time_column="price"), "transactions", "price", "not a time"),
    (lambda d: d["task"].update(label_column="churned"), "task.train", "churned", "no such column"),
    (
        lambda d: d["task"].update(target_entity={"column": "customer_id", "link_to": "articles.article_id"}),
        "task.train",
        "customer_id",
        "is string",
    ),
]


@pytest.mark.parametrize(("change", "where", "column", "said"), IN_THE_DOCUMENT)
def test_mistakes_in_the_document(
    tmp_path: Path, change: Callable[[Document], Any], where: str, column: str | None, said: str
) -> None:
    found = problems_of(changed(write_shop(tmp_path), change))
    assert (found[0].table, found[0].column) == (where, column), found
    assert said in found[0].problem
    assert found[0].fix


def test_a_misspelt_column_is_guessed(tmp_path: Path) -> None:
    document = changed(write_shop(tmp_path), lambda d: d["tables"][2].update(time_column="tdat"))
    assert problems_of(document)[0].fix == "did you mean t_dat?"


@pytest.mark.parametrize(
    ("task_type", "labels", "said"),
    [
        ("multiclass_classification", ["a", "b", "c"], None),
        ("multiclass_classification", [0.5, 1.5, 2.5], "whole numbers or text"),
        ("multilabel_classification", [["a"], ["a", "b"], []], None),
        ("multilabel_classification", ["a", "b", "c"], "a list of labels"),
        ("regression", [0.5, 1.5, 2.5], None),
        ("regression", [0.5, float("nan"), float("inf")], "NaN or infinite"),
        ("regression", ["a", "b", "c"], "predicts a number"),
        ("binary_classification", [True, False, True], None),
        ("binary_classification", ["yes", "no", "yes"], "other values than 0 and 1"),
        ("binary_classification", [[0], [1], [0]], "has one label"),
    ],
)
def test_labels_are_of_the_task_type(tmp_path: Path, task_type: str, labels: list[Any], said: str | None) -> None:
    spread = replaced("churn", lambda v: [labels[n % len(labels)] for n in range(len(v))])
    document = write_shop(tmp_path, churn_train=spread, churn_validation=spread, churn_test=spread)
    document["task"]["task_type"] = task_type
    found = problems_of(document)
    assert {each.column for each in found} == ({"churn"} if said else set())
    assert all(said in each.problem for each in found if said)


def test_links_may_be_lists(tmp_path: Path) -> None:
    links = {"customer_id": ["c1", "c2"], "t": [datetime(2024, 5, 1)] * 2, "article_id": [[1, 2], [3]]}
    wrong = links | {"article_id": [[1, 2], [3, 9999]]}
    document = write_shop(
        tmp_path, churn_train=lambda _: links, churn_validation=lambda _: links, churn_test=lambda _: wrong
    )
    task = document["task"]
    document["task"] = {
        "name": "next",
        "task_type": "link_prediction",
        "source_entity": task["target_entity"],
        "target_entity": {"column": "article_id", "link_to": "articles.article_id"},
        "time_column": "t",
        "source": task["source"],
    }
    found = problems_of(document)
    assert [(each.table, each.column) for each in found] == [("task.test", "article_id")]
    assert "1 of 4 values (25.0%) match nothing" in found[0].problem


def test_the_published_benchmark_is_sound(f1: Path) -> None:
    for task in TASKS:
        assert validate(formula1(f1, task), Sources()) == []
