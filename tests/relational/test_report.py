"""The report of a job that learnt from tables, as a browser and a terminal show it."""

import csv
import io
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from playwright.sync_api import Browser, sync_playwright
from rich.console import Console

from support.tables import shop_document
from tuneloop.relational import Dataset
from tuneloop.relational.examples import Examples
from tuneloop.relational.judging import LINK_KS
from tuneloop.relational.learner import Folds, Importance, Links
from tuneloop.relational.metrics import measure
from tuneloop.relational.report import Attempt, Facts, terminal, write_report
from tuneloop.relational.schema import METRICS

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ATTACK = "<script>document.title='broken'</script><img src=x onerror=\"document.title='broken'\">&amp;[bold]"
CLASSES = ("blue", "green", "red")
TYPES = (*METRICS, "link_prediction")


def made_up(folder: Path, task_type: str, rows: int = 240, words: str = "mean price, through transactions") -> Facts:
    """A search that came to a model which knows something."""
    document = shop_document(folder)
    document["task"] |= {"task_type": task_type}
    if task_type == "link_prediction":
        del document["task"]["label_column"]
        document["task"]["source_entity"] = document["task"]["target_entity"]
        document["task"]["target_entity"] = {"column": "article_id", "link_to": "articles.article_id"}
    dataset = Dataset.parse(document)
    folds, predictions = {}, {}
    for number, split in enumerate(("train", "validation", "test")):
        rng = np.random.default_rng(number)
        labels, predictions[split] = _guessed(task_type, rng, rows)
        times = np.array([datetime(2024, 1 + 3 * number, 1) + timedelta(days=day % 28) for day in range(rows)])
        keys = pa.chunked_array([pa.array([f"c{at}" for at in rng.integers(0, 60, rows)])])
        folds[split] = Examples(
            keys, times.astype("datetime64[us]"), times.astype("datetime64[us]"), pa.chunked_array([labels])
        )
    del predictions["train"]
    params = {"num_leaves": 16, "learning_rate": 0.0312345, "extra_trees": False, "layers": [64, 32], "a": 1, "b": 2}
    return Facts(
        dataset=dataset,
        folds=Folds(**folds),
        predictions=predictions,
        runs=[
            Attempt("boosted", 0.7, 12.3, params),
            Attempt("gnn", 0.71 if dataset.task.maximise else 0.69, 200.0, params | {"c": None}, "best"),
            Attempt("gnn", None, 3.0, {}, "failed"),
        ],
        curves={
            "learning_rate": [(n, 0.1) for n in range(60)],
            "seconds": [(0, 3.0)],
            "val_metric_other": [(0, 3.0)],
            "train_loss": [(n, 1 / n) for n in range(1, 60)],
            "val_loss": [(n, 1 / n + n / 400) for n in range(1, 60)],
            f"val_metric_{dataset.task.evaluation_metric}": [(n, 0.6 + n / 700 - n * n / 50000) for n in range(1, 60)],
        },
        importances=[
            Importance(words if at == 0 else f"feature {at}", "transactions", 0.8**at / 5) for at in range(40)
        ],
        by_table={"transactions": 0.123456, "customers": 0.0, "articles": -0.002},
        classes=CLASSES if "multi" in task_type else (),
        model="gnn",
    )


def _guessed(task_type: str, rng: np.random.Generator, rows: int) -> tuple[Any, Any]:
    if task_type == "regression":
        labels = rng.gamma(2, 40, rows)
        return pa.array(labels), labels * rng.uniform(0.5, 1.5, rows)
    if task_type == "binary_classification":
        said = rng.beta(1, 4, rows)
        return pa.array((rng.random(rows) < said).astype(int)), said
    if task_type == "multiclass_classification":
        said = rng.dirichlet([3, 1, 0.4], rows)
        chosen = [rng.choice(3, p=each) for each in said]
        return pa.array([CLASSES[at] for at in chosen]), said
    if task_type == "multilabel_classification":
        said = rng.beta(1, 2, (rows, 3))
        there = rng.random((rows, 3)) < said
        return pa.array([[name for name, is_it in zip(CLASSES, row, strict=True) if is_it] for row in there]), said
    labels = [rng.choice(25, rng.integers(0, 4), replace=False).tolist() for _ in range(rows)]
    keys = np.array([rng.permutation(25)[:20] for _ in range(rows)])
    for row, label in zip(keys, labels, strict=True):
        if label and rng.random() < 0.5 and label[0] not in row:
            row[0] = label[0]
    scores = np.tile(-np.arange(20.0), (rows, 1))
    return pa.array(labels, pa.list_(pa.int64())), Links(pa.array(keys.ravel()), scores)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module", params=TYPES)
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Facts, Path]:
    """A search over each type of task, and the folder of its report."""
    folder = tmp_path_factory.mktemp("report")
    facts = made_up(folder, request.param)
    write_report(facts, folder)
    return facts, folder


def test_the_page_says_what_was_predicted_and_how_well(written: tuple[Facts, Path], browser: Browser) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 800})
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: pytest.fail(str(error)))
    page.goto((written[1] / "report.html").as_uri())
    text = page.inner_text("body")
    for words in (
        "customers",
        "customer_id",
        "within the next week",
        "mean price, through transactions",
        "transactions",
        "gnn",
    ):
        assert words in text
    assert "nan" not in text.lower().split() and "−0.000" not in text and "None" not in text
    assert "+0.123" in text
    # The page is no wider than the phone, and needs nothing else.
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert len(asked) == 1
    runs = page.locator("h2:has-text('Runs') ~ .card tbody tr")
    assert runs.count() == 3 and "best" in runs.first.inner_text() and "failed" in runs.last.inner_text()
    assert page.locator(".bars").first.locator(".what").count() == 25
    assert page.locator("svg[aria-label*='by step']").count() == 2
    page.close()


def test_figures_are_those_of_the_predictions(tmp_path: Path) -> None:
    facts = made_up(tmp_path, "binary_classification")
    write_report(facts, tmp_path / "report")
    found = json.loads((tmp_path / "report" / "metrics.json").read_text())
    labels = facts.folds.test.labels.to_numpy()
    for metric in METRICS["binary_classification"]:
        of = found["metrics"]["test"][metric]
        assert of["value"] == pytest.approx(measure(metric, labels, facts.predictions["test"]))
        assert of["low"] <= of["value"] <= of["high"]
    assert found["metrics"]["test"]["roc_auc"]["baseline"] == 0.5
    assert found["metrics"]["validation"]["average_precision"]["baseline"] == pytest.approx(
        facts.folds.validation.labels.to_numpy().mean()
    )
    assert found["calibration_error"] < 0.1  # labels are drawn with these probabilities
    assert found["runs"][2]["value"] is None and found["permutation_by_table"]["transactions"] == 0.123456
    rows = list(csv.DictReader((tmp_path / "report" / "importances.csv").open()))
    assert len(rows) == 40 and rows[0] == {
        "words": "mean price, through transactions", "table": "transactions", "share": "0.2"
    }  # fmt: skip


def test_probabilities_that_say_too_much_are_found_out(tmp_path: Path) -> None:
    facts = made_up(tmp_path, "binary_classification")
    sure = (facts.predictions["validation"] > 0.2) * 0.9 + 0.05
    write_report(replace(facts, predictions={"validation": sure}), tmp_path / "report")
    assert json.loads((tmp_path / "report" / "metrics.json").read_text())["calibration_error"] > 0.3


def test_predictions_can_be_looked_at(written: tuple[Facts, Path]) -> None:
    facts, folder = written
    found = pq.read_table(folder / "predictions.parquet")
    assert found.column_names[:3] == ["customer_id", "timestamp", "label"] and len(found) == 240
    expected = facts.predictions["validation"]
    if isinstance(expected, Links):
        assert found["prediction"][0].as_py() == expected.keys[:20].to_pylist()
    elif expected.ndim == 2:
        assert found["probability of green"].to_pylist() == expected[:, 1].tolist()
    else:
        assert found["prediction"].to_pylist() == expected.tolist()


def test_the_guess_of_links_is_what_is_popular(tmp_path: Path) -> None:
    facts = made_up(tmp_path, "link_prediction")
    train = replace(facts.folds.train, labels=pa.chunked_array([pa.array([[3, 7]] * 100 + [[7]] * 140)]))
    validation = replace(facts.folds.validation, labels=pa.chunked_array([pa.array([[7]] * 120 + [[3]] * 120)]))
    folds = Folds(train, validation)
    facts = replace(facts, folds=folds, predictions={"validation": facts.predictions["validation"]})
    write_report(facts, tmp_path / "report")
    found = json.loads((tmp_path / "report" / "metrics.json").read_text())
    assert found["metrics"]["validation"]["map_at_12"]["baseline"] == pytest.approx(0.75)
    assert LINK_KS[-1] <= 100


def test_names_are_text_and_nothing_else(tmp_path: Path, browser: Browser) -> None:
    facts = made_up(tmp_path, "binary_classification", words=ATTACK)
    write_report(facts, tmp_path / "report")
    page = browser.new_page()
    page.goto((tmp_path / "report" / "report.html").as_uri())
    assert page.title() == "shop / churn"
    assert ATTACK in page.inner_text("body")
    page.close()
    assert ATTACK in _printed(facts, 400)


def test_a_search_that_found_little_has_a_page(tmp_path: Path, browser: Browser) -> None:
    whole = made_up(tmp_path, "binary_classification", rows=3)
    ones = replace(whole.folds.validation, labels=pa.chunked_array([pa.array([1, 1, 1])]))
    folds = Folds(whole.folds.train, ones)
    alone = Facts(whole.dataset, folds, {"validation": whole.predictions["validation"]})
    for facts in (alone, replace(alone, predictions={})):
        write_report(facts, tmp_path / "report")
        json.loads((tmp_path / "report" / "metrics.json").read_text())
        page = browser.new_page()
        page.goto((tmp_path / "report" / "report.html").as_uri())
        assert "No run was made" in page.inner_text("body")
        page.close()
        assert "churn" in _printed(facts)


def test_the_terminal_has_the_short_version(tmp_path: Path) -> None:
    text = _printed(made_up(tmp_path, "regression"))
    for words in ("MAE", "R²", "mean price, through transactions", "feature 4", "20.0%", "transactions", "0.123"):
        assert words in text
    assert "feature 5" not in text


def _printed(facts: Facts, width: int = 120) -> str:
    console = Console(width=width, file=io.StringIO())
    console.print(terminal(facts))
    printed = console.file
    assert isinstance(printed, io.StringIO)
    return printed.getvalue()
