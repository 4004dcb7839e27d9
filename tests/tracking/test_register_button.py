"""The run's page in a real browser: people register a model there, too."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import mlflow
import pytest
from playwright.sync_api import Page, expect, sync_playwright

from tuneloop.tracking import Tracking, experiment_url, run_url

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
SECONDS = 60_000


@pytest.fixture
def page() -> Iterator[Page]:
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.set_default_timeout(SECONDS)
        yield page
        browser.close()


def test_the_runs_page_registers_its_model(
    tracking: Tracking, method: str, batch: Callable[[], str], mlflow_model: Path, page: Page
) -> None:
    experiment = tracking.open_iteration(method, batch())
    run_id = tracking.create_run(experiment, name="run 1", params={"loss": "contrastive"}, tags={})
    tracking.store_model(run_id, mlflow_model)
    tracking.end_run(run_id, "FINISHED")
    name = f"shop-{run_id}"
    page.goto(run_url(tracking.server.uri, experiment, run_id))
    page.get_by_role("button", name="Register model").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("combobox").click()
    page.get_by_text("Create New Model", exact=True).click()
    dialog.get_by_placeholder("Input a model name").fill(name)
    dialog.get_by_role("button", name="Register").click()
    expect(page.get_by_role("link", name=name)).to_be_visible(timeout=SECONDS)

    version = mlflow.MlflowClient(tracking.server.uri).get_model_version(name, "1")
    assert (version.run_id, version.source) == (run_id, f"runs:/{run_id}/model")
    assert not tracking.delete_model(run_id), "a version that a person registered keeps its files"


def test_the_experiments_page_lists_its_runs(
    tracking: Tracking, method: str, batch: Callable[[], str], page: Page
) -> None:
    experiment = tracking.open_iteration(method, batch())
    tracking.create_run(experiment, name="the only run", params={}, tags={})
    page.goto(experiment_url(tracking.server.uri, experiment))
    expect(page.get_by_text("the only run").first).to_be_visible(timeout=SECONDS)


def test_a_run_without_a_model_offers_nothing(
    tracking: Tracking, method: str, batch: Callable[[], str], mlflow_model: Path, page: Page
) -> None:
    experiment = tracking.open_iteration(method, batch())
    run_id = tracking.create_run(experiment, name="run 1", params={}, tags={})
    tracking.store_model(run_id, mlflow_model)
    tracking.delete_model(run_id)
    page.goto(run_url(tracking.server.uri, experiment, run_id))
    expect(page.get_by_text(run_id).first).to_be_visible(timeout=SECONDS)
    expect(page.get_by_role("button", name="Register model")).to_have_count(0)
