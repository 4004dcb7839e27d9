"""Datasets are the same in Python, JSON and YAML, and wrong ones are refused by name."""

from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.tables import shop_document
from tuneloop.errors import InvalidInput
from tuneloop.relational import CandidateKey, Dataset, ForeignKey, LinkTask, NodeTask, Table


def python_shop(folder: Path) -> Dataset:
    """The shop as a person writes it."""
    link = ForeignKey("customer_id", link_to="customers.customer_id")
    return Dataset(
        "shop",
        tables=[
            Table("customers", source=f"{folder}/customers.parquet", candidate_keys=[CandidateKey("customer_id")]),
            Table("articles", source=f"{folder}/articles.parquet", candidate_keys=[CandidateKey("article_id")]),
            Table(
                "transactions",
                source=f"{folder}/transactions.parquet",
                time_column="t_dat",
                foreign_keys=[link, ForeignKey("article_id", link_to="articles.article_id")],
            ),
        ],
        task=NodeTask(
            "churn",
            task_type="binary_classification",
            time_column="timestamp",
            label_column="churn",
            target_entity=link,
            horizon=timedelta(days=7),
            source={name: f"{folder}/churn_{name}.parquet" for name in ("train", "validation", "test")},
        ),
    )


def test_python_json_and_yaml_say_the_same(tmp_path: Path) -> None:
    written = python_shop(tmp_path)
    assert Dataset.parse(shop_document(tmp_path)) == written
    written.save(tmp_path / "shop.yaml")
    assert Dataset.load(tmp_path / "shop.yaml") == written
    assert Dataset.parse(written.document()) == written


def test_defaults_are_those_of_the_task_type(tmp_path: Path) -> None:
    dataset = python_shop(tmp_path)
    assert dataset.task is not None
    assert dataset.task.evaluation_metric == "roc_auc"
    assert dataset.experiment == "shop/binary_classification/churn"
    assert dataset.table("transactions").is_edge
    assert not dataset.table("customers").is_edge


def test_relative_paths_of_a_file_start_at_its_folder(tmp_path: Path) -> None:
    (tmp_path / "shop.yaml").write_text(
        "name: shop\ntables:\n"
        "- {name: a, source: data/a.parquet}\n- {name: b, source: shop.duckdb#b}\n"
        "- {name: c, source: warehouse#public.c}\n- {name: d, source: 'upload:0.parquet'}\n"
        "- {name: e, source: /srv/e.csv}\n"
    )
    sources = [table.source for table in Dataset.load(tmp_path / "shop.yaml").tables]
    assert sources == [
        str(tmp_path / "data/a.parquet"),
        str(tmp_path / "shop.duckdb#b"),
        "warehouse#public.c",
        "upload:0.parquet",
        "/srv/e.csv",
    ]


@given(amount=st.integers(1, 400), unit=st.sampled_from(["second", "minute", "hour", "day", "week"]))
def test_horizons_are_said_in_words_and_survive(amount: int, unit: str) -> None:
    document = shop_document(Path("/data"))
    document["task"]["horizon"] = f"{amount} {unit}s"
    dataset = Dataset.parse(document)
    assert dataset.task is not None
    assert dataset.task.horizon == timedelta(**{f"{unit}s": amount})
    assert Dataset.parse(dataset.document()) == dataset


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"evaluation_metric": "mae"}, "evaluation_metric"),
        ({"task_type": "guessing"}, "task_type"),
        ({"horizon": "a while"}, "horizon"),
        ({"horizon": "0 days"}, "horizon"),
        ({"source": None}, "source"),
        ({"source": None, "template": "select 1", "horizon": None}, "horizon"),
        ({"source": {"train": "a.parquet"}}, "validation"),
        ({"target_entity": {"column": "customer_id", "link_to": "customers"}}, "link_to"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_what_makes_no_sense_is_named(change: dict[str, object], named: str) -> None:
    document = shop_document(Path("/data"))
    document["task"] = {key: value for key, value in (document["task"] | change).items() if value is not None}
    with pytest.raises(InvalidInput, match=named):
        Dataset.parse(document)


@pytest.mark.parametrize("metric", ["map_at_12", "precision_at_1", "recall_at_1000"])
def test_links_are_measured_at_any_k(metric: str) -> None:
    task = LinkTask(
        "next",
        task_type="link_prediction",
        source_entity=ForeignKey("customer_id", link_to="customers.customer_id"),
        target_entity=ForeignKey("article_id", link_to="articles.article_id"),
        source={"train": "a", "validation": "b"},
        evaluation_metric=metric,
    )
    assert task.k == int(metric.rpartition("_")[2])


@pytest.mark.parametrize("metric", ["map_at_0", "map_at_1001", "map_at_x", "ndcg_at_10", "map"])
def test_links_are_measured_by_nothing_else(metric: str) -> None:
    with pytest.raises(ValueError, match="evaluation_metric"):
        LinkTask(
            "next",
            task_type="link_prediction",
            source_entity=ForeignKey("customer_id", link_to="customers.customer_id"),
            target_entity=ForeignKey("article_id", link_to="articles.article_id"),
            source={"train": "a", "validation": "b"},
            evaluation_metric=metric,
        )


def test_a_file_that_is_no_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot be read"):
        Dataset.load(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("name: [")
    with pytest.raises(InvalidInput, match="neither YAML nor JSON"):
        Dataset.load(tmp_path / "bad.yaml")
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(InvalidInput, match="describes no dataset"):
        Dataset.load(tmp_path / "list.yaml")
