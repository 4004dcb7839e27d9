"""What people see of the best run of the default method: the task's detail, MLflow's run, the page in its viewer."""

import shutil

import pytest
from playwright.sync_api import expect, sync_playwright

from support.models import tiny_settings, write_snapshot
from tuneloop.database import Database
from tuneloop.ids import new_id
from tuneloop.iteration.iterate import iterate
from tuneloop.iteration.job import Job
from tuneloop.methods.contract import Meta
from tuneloop.methods.default import DefaultFineTuningMethod, DefaultSettings
from tuneloop.models.store import StoredModels
from tuneloop.tracking import Tracking

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SECONDS = 60_000


class Observer:
    def check(self): ...

    def progress(self, **fields): ...

    def found(self, **fields): ...


@pytest.fixture(scope="module")
def best(mlflow_uri, tiny_model, tmp_path_factory):
    """The task's detail and the best run."""
    folder = tmp_path_factory.mktemp("iteration")
    database = Database(f"sqlite:///{folder}/t.sqlite")
    database.migrate()
    tracking = Tracking(mlflow_uri, retry_seconds=20)
    kind = type("Method", (DefaultFineTuningMethod,), {"meta": Meta(f"reporting {new_id()}", "1", "")})
    method = kind(DefaultSettings(**tiny_settings(tiny_model, max_runs=1)))
    job = Job(new_id(), 1, new_id(), method, write_snapshot(folder / "snapshot"), folder / "work")
    stored = StoredModels(database)
    outcome = iterate(job, tracking=tracking, stored=stored, observer=Observer(), durable=lambda name, step: step())
    assert outcome.best_run_id is not None, outcome.detail
    return outcome.detail, tracking.get_run(outcome.best_run_id)


def test_the_detail_the_metrics_and_the_tags_say_the_same(best, mlflow_uri):
    detail, run = best
    metrics = run.metrics
    start = dict(Tracking(mlflow_uri).metric_history(run.run_id, "test_ndcg_at_10"))[0]
    gain = metrics["test_ndcg_at_10_gain"]
    assert gain == pytest.approx(metrics["test_ndcg_at_10"] - start)
    low, high = metrics["test_ndcg_at_10_gain_low"], metrics["test_ndcg_at_10_gain_high"]
    assert 0 < low < gain < high
    assert detail.startswith(f"better by {gain:.3f}, 95 % interval {low:.3f} to {high:.3f}, on ")
    assert run.tags["tuneloop.verdict"] == detail


def test_the_report_opens_in_mlflow(best, mlflow_uri):
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine")
    detail, run = best
    address = f"{mlflow_uri}/#/experiments/{run.experiment_id}/runs/{run.run_id}/artifacts/report/before_after.html"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--headless", "--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.goto(f"{address}?workflowType=machine_learning", timeout=SECONDS)
        report = page.frame_locator("iframe").first
        sentence = detail.partition(" (")[0]
        expect(report.get_by_text(f"B{sentence[1:]}")).to_be_visible(timeout=SECONDS)
        expect(report.get_by_text("Gained most")).to_be_attached()
        assert report.locator("html").evaluate("page => page.scrollWidth <= page.clientWidth")
        browser.close()
