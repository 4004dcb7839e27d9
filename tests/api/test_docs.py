"""The page with the API's documentation, in a real browser that reaches nothing but the service."""

import shutil
from collections.abc import Iterator

import httpx
import pytest
from playwright.sync_api import Page, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture
def page() -> Iterator[Page]:
    if CHROMIUM is None:
        pytest.skip("there is no Chromium on this machine")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser.new_page()
        browser.close()


def test_docs_show_every_call_without_internet(api_url: str, page: Page) -> None:
    elsewhere: list[str] = []
    wrong: list[str] = []
    page.on("request", lambda request: request.url.startswith((api_url, "data:")) or elsewhere.append(request.url))
    page.on("console", lambda message: message.type == "error" and wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(f"{api_url}/docs")
    page.get_by_text("/api/v1/clickstream/sessions/import").wait_for()
    document = httpx.get(f"{api_url}/openapi.json").json()
    operations = sum(len(item) for item in document["paths"].values())
    assert page.locator(".opblock").count() == operations
    page.locator(".opblock", has_text="/api/v1/ping").click()
    page.get_by_role("button", name="Execute").click()
    page.locator(".live-responses-table .response-col_description").get_by_text("pong").wait_for()
    assert (elsewhere, wrong) == ([], [])


def test_the_document_says_how_every_call_can_fail(http: httpx.Client) -> None:
    document = http.get("/openapi.json").json()
    assert document["info"]["title"] == "Tuneloop"
    ids = []
    for path, item in document["paths"].items():
        for operation in item.values():
            ids.append(operation["operationId"])
            assert operation["tags"]
            assert operation["summary"]
            if path not in ("/api/v1/ping", "/healthz"):
                assert {"401", "403"} <= set(operation["responses"])
            if "parameters" in operation or "requestBody" in operation:
                assert "422" in operation["responses"]
    assert len(ids) == len(set(ids))
    assert "HTTPValidationError" not in document["components"]["schemas"]


def test_redirects_lead_nowhere_else(http: httpx.Client) -> None:
    assert http.get("/docs").headers["content-type"].startswith("text/html")
    assert "http" not in http.get("/docs").text.replace("https://fastapi", "")
    assert http.get("/docs/assets/swagger-ui-bundle.js").status_code == 200
    assert http.get("/docs/assets/../../app.py").status_code == 404
    assert http.get("/docs/assets/%2e%2e/app.py").status_code == 404
    assert http.get("/docs/assets/nothing.js").json()["detail"]
