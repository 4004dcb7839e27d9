import subprocess
import sys

import pytest

from tuneloop.errors import NotFound
from tuneloop.methods.registry import discover

GOOD = """
from typing import ClassVar
from tuneloop.methods.contract import Meta, Method, MethodSettings

class Settings(MethodSettings):
    main_metric: str = "test_score"

class {cls}(Method[Settings]):
    meta = Meta({name!r}, "1", "A method")
    settings_schema = Settings
    metrics: ClassVar = {{"test_score": "maximize"}}
    def initial_model_source(self): return "x"
    def load_initial_model(self): return None
    def search_space(self): return {{}}
    def prepare(self, snapshot, start_model, context): ...
    def train(self, prepared, start_model, params, context): ...
    def save_model(self, model, folder): ...
"""


def write(folder, **files):
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)


def test_built_in_method_is_found():
    assert "Default Fine Tuning Method" in discover().methods


def test_folder_plugins_are_found(tmp_path):
    write(tmp_path, mine=GOOD.format(cls="Mine", name="My method"))
    registry = discover(tmp_path)
    assert registry.get("My method").meta.version == "1"
    assert registry.failed == ()


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("import nothing_of_this_name", "nothing_of_this_name"),
        ("raise SystemExit(3)", "SystemExit"),
        ("def broken(:", "SyntaxError"),
        ("x = 1", "holds no class"),
        (GOOD.format(cls="A", name="two / parts"), "without ' / '"),
        (GOOD.format(cls="A", name="Default Fine Tuning Method"), "already named"),
        (GOOD.format(cls="A", name="A").replace("meta = Meta", "other = Meta"), "no `meta`"),
    ],
)
def test_a_broken_plugin_is_named_and_the_others_go_on(tmp_path, text, error):
    write(tmp_path, a_broken=text, good=GOOD.format(cls="Good", name="Good"))
    registry = discover(tmp_path)
    assert {"Default Fine Tuning Method", "Good"} <= registry.methods.keys()
    (failed,) = registry.failed
    assert failed.source == "a_broken.py"
    assert error in failed.error


def test_a_missing_folder_is_named(tmp_path):
    assert discover(tmp_path / "missing").failed[0].source.endswith("missing")


def test_an_unknown_method_lists_the_known():
    with pytest.raises(NotFound, match="Default Fine Tuning Method"):
        discover().get("Default Fine-Tuning Method")


def test_listing_methods_needs_no_torch():
    code = (
        "import sys; from tuneloop.methods.registry import discover; assert not discover().failed;"
        "print([name for name in ('torch', 'optuna', 'mlflow', 'transformers') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
