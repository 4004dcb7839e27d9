"""A plugin whose training takes no time and does what its settings say: for tests of everything around training."""

import json
import time
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from tuneloop.methods.contract import Meta, Method, MethodSettings, Prepared, Trained, Verdict

MODEL_CODE = """
import json
import mlflow
import numpy as np

class Letters(mlflow.pyfunc.PythonModel):
    def load_context(self, context):
        with open(context.artifacts["weights"]) as file:
            self.bias = json.load(file)["bias"]

    def predict(self, context, model_input: list[str], params=None):
        counts = np.array([[text.lower().count(c) for c in "abcdefghijklmnopqrstuvwxyz"] for text in model_input])
        vectors = counts + 1e-3 + self.bias
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

mlflow.models.set_model(Letters())
"""


class ProbeSettings(MethodSettings):
    main_metric: str = "test_score"
    max_runs: int = 3
    steps: int = 5
    seconds_per_step: float = 0.0
    held_out: int = 100
    outcome: str = "good"  # good | worse | nan | error | nan_then_good
    prunable: bool = False  # whether a run shows before its end how good it will be
    note_file: str | None = None  # each training appends a line
    source: str = "probe"
    report: str = "none"  # none | words | error: what it has to say of a best model
    earlier: int = 0  # sessions of earlier batches that it asks for
    bulk: int = Field(0, description="Bytes of ballast in the model.")


class ProbeMethod(Method[ProbeSettings]):
    meta = Meta("Probe", "1", "Does what its settings say.")
    settings_schema = ProbeSettings
    metrics: ClassVar = {"test_score": "maximize", "test_loss": "minimize"}

    def initial_model_source(self):
        return self.settings.source

    def load_initial_model(self):
        return {"bias": 0.0}

    def earlier_sessions(self):
        return self.settings.earlier

    def search_space(self):
        from optuna.distributions import FloatDistribution

        return {"x": FloatDistribution(0.0, 1.0)}

    def default_params(self):
        return {"x": 0.5}

    def prepare(self, snapshot, start_model, context):
        context.check()
        sessions = snapshot.sessions()
        assert (start_model / "MLmodel").is_file()
        return Prepared(
            {"sessions": sessions.num_rows},
            counts={
                "sessions": sessions.num_rows,
                "items": snapshot.items().num_rows,
                "earlier": snapshot.earlier_sessions().num_rows,
            },
            held_out=self.settings.held_out,
            baseline={"test_score": 0.1, "test_ndcg_at_10": 0.5},
        )

    def train(self, prepared, start_model, params, context):
        settings = self.settings
        if settings.note_file:
            with Path(settings.note_file).open("a") as file:
                file.write(f"{params['x']}\n")
        outcome = settings.outcome
        if outcome == "nan_then_good":
            outcome = "nan" if params["x"] == 0.5 else "good"
        if outcome == "error":
            raise RuntimeError("the probe was told to fail")
        score = 1 - abs(params["x"] - 0.7)
        for step in range(1, settings.steps + 1):
            until = time.monotonic() + settings.seconds_per_step
            while time.monotonic() < until:
                context.check()
                time.sleep(0.05)
            loss = float("nan") if outcome == "nan" and step == 2 else 1.0 / step
            context.progress("training", epoch=step, epochs=settings.steps)
            context.report({"train_loss": loss}, step=step)
            seen = score if settings.prunable else 0.1
            context.report({"test_score": seen * step / settings.steps}, step=step)
        ndcg = 0.4 if outcome == "worse" else 0.6
        return Trained({"bias": params["x"]}, metrics={"test_score": score, "test_ndcg_at_10": ndcg})

    def save_model(self, model, folder):
        import mlflow

        source = folder.parent / f"{folder.name}-source"
        source.mkdir(parents=True, exist_ok=True)
        (source / "letters.py").write_text(MODEL_CODE)
        (source / "weights.json").write_text(json.dumps({**model, "ballast": "x" * self.settings.bulk}))
        mlflow.pyfunc.save_model(
            folder,
            python_model=str(source / "letters.py"),
            artifacts={"weights": str(source / "weights.json")},
            pip_requirements=["mlflow", "numpy"],
        )

    def verdict(self, prepared, trained):
        if self.settings.report == "error":
            raise RuntimeError("the probe was told to fail")
        if self.settings.report == "none":
            return None
        score = trained.metrics["test_score"]
        return Verdict(f"better: {score:.6f}", {"test_score_low": score - 0.1})

    def write_report(self, prepared, trained, folder):
        if self.settings.report == "error":
            raise RuntimeError("the probe was told to fail")
        if self.settings.report == "words":
            (folder / "page.html").write_text(f"<p>{trained.metrics['test_score']:.6f}</p>")
