"""The page of a best run, as a browser shows it."""

import shutil

import numpy as np
import pytest
from playwright.sync_api import sync_playwright

from support.models import made_up_items, made_up_sessions, write_snapshot
from tuneloop.search import metrics
from tuneloop.search.data import make_training_data
from tuneloop.search.evaluate import Evaluator
from tuneloop.search.report import write_report
from tuneloop.search.sessions import read_log
from tuneloop.search.trace import Trace

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ATTACK = "<script>document.title='broken'</script><img src=x onerror=\"document.title='broken'\">&amp;"


class MadeUpScores:
    """An evaluator whose similarities are made up: the page needs no model."""

    def __init__(self, sessions):
        self.sessions = {"test": sessions}
        self.gains = {"test": sessions.clicked * metrics.click_weights(sessions.position)}
        self.base = np.zeros(len(sessions.result))
        self.before = {"test": (1.0 / sessions.position, self.base)}
        self.baseline = self.measure(self.before)

    def session_values(self, split, now):
        return Evaluator.session_values(self, split, now)

    def measure(self, now):
        self.latest = now
        values = self.session_values("test", now)
        return {f"test_{name}": float(np.nanmean(each)) for name, each in values.items()}


def finished(folder, sessions=None, items=None, *, push=0.1, noise=0.2):
    """A run over a log, whose model puts clicked results higher, or some other."""
    snapshot = write_snapshot(folder, sessions, items)
    data = make_training_data(read_log(snapshot.sessions(), snapshot.items()))
    evaluator = MadeUpScores(data.held_out)
    trace = Trace(evaluator, {"loss": "contrastive", "query_lr": 0.000333333})
    rng = np.random.default_rng(0)
    for step in range(1, 61):
        trace.add({"train_loss": 1 / step}, step)
        if step % 20 == 0:
            moved = push * data.held_out.clicked + noise * rng.random(len(data.held_out.result))
            scores = evaluator.before["test"][0] + moved * step / 40
            found = evaluator.measure({"test": (scores, evaluator.base)}) | {"test_loss": 1 / step}
            if step == 40:
                kept = found
            trace.add(found, step)
    trace.finish(kept)
    return trace, data


def write(folder, trace, data, searches=20):
    page = folder / "page.html"
    write_report(page, trace, data, title="A method", searches=searches)
    return page


@pytest.fixture
def browser():
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--headless", "--no-sandbox", "--disable-gpu"]
        )
        yield chromium
        chromium.close()


def test_the_comparison_is_of_the_state_that_was_kept(tmp_path):
    trace, _ = finished(tmp_path)
    assert trace.best_step == 40
    ndcg = dict(trace.series("test_ndcg_at_10"))
    assert list(ndcg) == [0, 20, 40, 60]
    comparison = trace.comparison
    assert comparison.end["ndcg_at_10"].value == pytest.approx(ndcg[40])
    assert comparison.start["ndcg_at_10"].value == pytest.approx(ndcg[0])
    assert comparison.gain["ndcg_at_10"].value == pytest.approx(ndcg[40] - ndcg[0])


@pytest.mark.parametrize("width", [1200, 800, 380])
def test_the_page_stands_alone_and_fits(tmp_path, browser, width):
    long = [{**item, "text": f"{item['text']} {'x' * 300} {'many words ' * 30}"} for item in made_up_items()]
    typed = [{**each, "search_query": f"{each['search_query']} {'y' * 150}"} for each in made_up_sessions()]
    trace, data = finished(tmp_path, typed, long)
    page = browser.new_page(viewport={"width": width, "height": 900}, java_script_enabled=True)
    asked, complaints = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.goto(write(tmp_path, trace, data).as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert [url for url in asked if not url.startswith("file:")] == [] and len(asked) == 1
    assert complaints == []
    heading = page.locator(".verdict strong").inner_text()
    assert heading.casefold() == trace.comparison.verdict.casefold()
    gain = trace.comparison.gain["ndcg_at_10"]
    row = page.locator("tbody tr", has_text="nDCG@10").first.inner_text()
    assert f"{gain.value:.3f}" in row and f"{gain.low:.3f} to {gain.high:.3f}" in row
    assert page.locator("figure svg path").count() == 5  # three metrics, two losses
    if width == 1200:
        sides = page.locator("details[open] .sides > div")
        first, second = (sides.nth(at).bounding_box() for at in (0, 1))
        assert first["y"] == second["y"] and second["x"] > first["x"] + 300


def test_the_searches_show_both_orders_and_the_clicks(tmp_path, browser):
    trace, data = finished(tmp_path)
    page = browser.new_page()
    page.goto(write(tmp_path, trace, data).as_uri())
    search = page.locator("details").first
    before, after = (search.locator("ol").nth(at).locator("li:not(.gap)") for at in (0, 1))
    assert before.count() == after.count() == 8
    assert sorted(before.locator(".text").all_inner_texts()) == sorted(after.locator(".text").all_inner_texts())
    clicked = [at for at in range(8) if "clicked" in (after.nth(at).get_attribute("class") or "")]
    assert clicked and all("clicked, shown at" in after.nth(at).inner_text() for at in clicked)
    assert before.locator(".pill").count() == len(clicked)
    assert 0 < page.locator("details:has(.sides)").count() <= 40


def test_what_people_typed_is_text_and_nothing_else(tmp_path, browser):
    sessions = [{**each, "search_query": f"{each['search_query']} {ATTACK}"} for each in made_up_sessions()]
    items = [{**each, "text": f"{each['text']} {ATTACK}"} for each in made_up_items()]
    trace, data = finished(tmp_path, sessions, items)
    path = write(tmp_path, trace, data)
    assert "<script" not in path.read_text() and "<img" not in path.read_text()
    page = browser.new_page()
    page.goto(path.as_uri())
    assert page.title() == "Before and after: A method"
    assert ATTACK in page.locator(".query").first.inner_text()
    assert ATTACK in page.locator("li .text").first.inner_text()


def test_no_user_and_no_session_is_named(tmp_path):
    sessions = [
        {**each, "session_id": f"secret-s{at}", "user_id": "secret-u"} for at, each in enumerate(made_up_sessions())
    ]
    trace, data = finished(tmp_path, sessions)
    assert "secret" not in write(tmp_path, trace, data).read_text()


def test_searches_can_be_left_out(tmp_path):
    trace, data = finished(tmp_path)
    page = write(tmp_path, trace, data, searches=0).read_text()
    assert "slang" not in page and "nDCG@10" in page
    assert "slang" in write(tmp_path, trace, data, searches=1).read_text()


def test_a_model_that_changes_nothing_has_a_page_too(tmp_path):
    trace, data = finished(tmp_path, push=0, noise=0)
    page = write(tmp_path, trace, data).read_text()
    assert "No clear difference: 0.000" in page


def test_a_clicked_result_far_down_is_listed(tmp_path):
    from tuneloop.search.comparison import Result
    from tuneloop.search.report import listed

    results = [Result(at, at, at, at, clicked=at == 15) for at in range(1, 21)]
    assert [each.rank for each in listed(results)] == [*range(1, 11), 15]
