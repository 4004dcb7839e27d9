"""How Tuneloop's things are called in MLflow: experiments, runs, tags, pages."""

from urllib.parse import quote

ITERATION_PREFIX = "iteration / "
INITIAL_EXPERIMENT = "iteration / initial"
INITIAL_RUN = "initial_model"
# Where a run keeps its model, below its artifacts.
MODEL_FOLDER = "model"
# And what there is to look at, of a best run.
REPORT_FOLDER = "report"

# Tags of runs.
TASK_TAG = "tuneloop.task_id"
METHOD_TAG = "tuneloop.method"
MODEL_SOURCE_TAG = "tuneloop.model_source"
MODEL_HASH_TAG = "tuneloop.model_hash"
MODEL_TAG = "tuneloop.model"  # storing | stored
REMOVING_TAG = "tuneloop.removing"
REQUEST_TAG = "tuneloop.request"

# Tags of experiments.
COMPLETE_TASK_TAG = "tuneloop.complete_task"
COMPLETED_AT_TAG = "tuneloop.completed_at"
BEST_RUN_TAG = "tuneloop.best_run"

# What MLflow's pages go by.
LOGGED_MODELS_TAG = "mlflow.log-model.history"  # shows "Register model" on the run's page
EXPERIMENT_KIND = {"mlflow.experimentKind": "custom_model_development"}  # training, not generative AI
VIEW = "?workflowType=machine_learning"  # the pages for training, whichever a browser showed before


def iteration_name(method: str, batch_id: str) -> str:
    """The name of the experiment that is the iteration of a method over a batch."""
    return f"{ITERATION_PREFIX}{method} / {batch_id}"


def iteration_batch(name: str, method: str) -> str | None:
    """The batch whose iteration of `method` the experiment named `name` is; None when it is none."""
    prefix = iteration_name(method, "")
    batch_id = name.removeprefix(prefix)
    # A method called "a" has no part in the iterations of one called "a /".
    return batch_id if name.startswith(prefix) and batch_id and "/" not in batch_id else None


def kept_name(method: str, batch_id: str, experiment_id: str) -> str:
    """The name of a former iteration that a registered version points into."""
    return f"kept / {method} / {batch_id} / {experiment_id}"


def experiment_url(base: str, experiment_id: str) -> str:
    """The page of an experiment's runs; `base` is MLflow's address as a browser reaches it."""
    return f"{_page(base, experiment_id)}{VIEW}"


def run_url(base: str, experiment_id: str, run_id: str) -> str:
    """The page of a run; `base` is MLflow's address as a browser reaches it."""
    return f"{_page(base, experiment_id)}/{quote(run_id, safe='')}{VIEW}"


def _page(base: str, experiment_id: str) -> str:
    return f"{base.rstrip('/')}/#/experiments/{quote(experiment_id, safe='')}/runs"
