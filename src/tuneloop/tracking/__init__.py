"""MLflow: experiment names, runs, metrics, keeping the best model."""

from tuneloop.tracking.artifacts import ModelFile
from tuneloop.tracking.names import experiment_url, run_url
from tuneloop.tracking.records import Iteration, RunInfo
from tuneloop.tracking.stream import MetricStream
from tuneloop.tracking.tracking import Tracking

__all__ = ["Iteration", "MetricStream", "ModelFile", "RunInfo", "Tracking", "experiment_url", "run_url"]
