"""The method that docs/plugins.md builds, taken from the page and run."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from support.models import write_snapshot
from tuneloop.database import Database
from tuneloop.ids import new_id
from tuneloop.iteration.iterate import iterate
from tuneloop.iteration.job import Job
from tuneloop.methods.registry import discover
from tuneloop.models.store import StoredModels
from tuneloop.tracking import Tracking

PAGE = Path(__file__).parents[2] / "docs" / "plugins.md"


@pytest.fixture
def plugins(tmp_path):
    folder = tmp_path / "plugins"
    folder.mkdir()
    for name, code in re.findall(r"```python\n# (\S+\.py)\n(.*?)```", PAGE.read_text(), re.DOTALL):
        (folder / name).write_text(code)
    assert len(list(folder.iterdir())) == 2
    return folder


class Observer:
    def check(self): ...

    def progress(self, **fields): ...

    def found(self, **fields): ...


def test_the_method_of_the_page_learns_and_serves_without_its_plugin(plugins, mlflow_uri, tmp_path):
    registry = discover(plugins)
    assert registry.failed == ()
    kind = registry.get("Hashed n-grams")
    database = Database(f"sqlite:///{tmp_path}/t.sqlite")
    database.migrate()
    tracking = Tracking(mlflow_uri)
    settings = kind.settings_schema(max_runs=2, epochs=5)
    job = Job(new_id(), 1, new_id(), kind(settings), write_snapshot(tmp_path / "snapshot"), tmp_path / "work")
    outcome = iterate(
        job,
        tracking=tracking,
        stored=StoredModels(database),
        observer=Observer(),
        durable=lambda name, step: step(),
    )
    assert outcome.best_run_id is not None, outcome.detail
    run = tracking.get_run(outcome.best_run_id)
    before = dict(tracking.metric_history(run.run_id, "test_ndcg_at_10"))[0]
    assert run.metrics["test_ndcg_at_10"] > before + 0.1
    code = (
        "import sys, mlflow;"
        f"mlflow.set_tracking_uri({mlflow_uri!r});"
        f"model = mlflow.pyfunc.load_model('runs:/{run.run_id}/model');"
        "vectors = model.predict(['slang1 word2'], params={'kind': 'query'});"
        "loaded = [name in sys.modules for name in ('hashed_ngrams', 'tuneloop')];"
        "print(vectors.shape, round(float((vectors ** 2).sum()), 3), *loaded)"
    )
    served = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert served.stdout.strip().endswith("(1, 64) 1.0 False False"), served.stdout + served.stderr
