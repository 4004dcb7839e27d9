"""The documentation says what is true."""

import re
from pathlib import Path

from tuneloop.settings import Settings

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_the_table_of_settings_matches_the_settings() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text()
    rows = re.findall(r"^\| `(TUNELOOP_\w+)` \| (.*?) \|", text, flags=re.MULTILINE)
    documented = {name: default for name, default in rows if name not in CLIENT_VARIABLES}
    expected = {}
    for name, field in Settings.model_fields.items():
        default = field.default
        expected[f"TUNELOOP_{name.upper()}"] = "" if default in (None, "") else f"`{default}`"
    assert documented == expected
    assert {name for name, _ in rows} >= CLIENT_VARIABLES


# Read by the command line and the client, not by the service.
CLIENT_VARIABLES = {"TUNELOOP_URL", "TUNELOOP_API_KEY"}


def test_every_variable_that_is_mentioned_exists() -> None:
    known = {f"TUNELOOP_{name.upper()}" for name in Settings.model_fields} | CLIENT_VARIABLES
    for page in PAGES:
        mentioned = set(re.findall(r"TUNELOOP_[A-Z_]*[A-Z]", page.read_text()))
        assert mentioned <= known, page.name


def test_links_between_the_pages_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} links to {target}"
