"""What MLflow tells us about: runs and iterations."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tuneloop.tracking.names import MODEL_TAG, REMOVING_TAG


@dataclass(frozen=True)
class RunInfo:
    """A run. Times are microseconds since 1970; `metrics` holds the last value of each."""

    run_id: str
    experiment_id: str
    name: str
    status: str  # RUNNING | FINISHED | FAILED | KILLED | SCHEDULED
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    tags: Mapping[str, str]
    started_at: int
    ended_at: int | None
    is_deleted: bool
    artifact_uri: str

    @property
    def says_stored(self) -> bool:
        """Whether its tags say that a whole model is stored and not on its way out."""
        return self.tags.get(MODEL_TAG) == "stored" and REMOVING_TAG not in self.tags


@dataclass(frozen=True)
class Iteration:
    """A completed iteration and the run whose model it came to."""

    experiment_id: str
    task_id: str
    best: RunInfo


def to_run_info(run: Any) -> RunInfo:
    """MLflow's run as ours."""
    info, data = run.info, run.data
    return RunInfo(
        run_id=info.run_id,
        experiment_id=info.experiment_id,
        name=info.run_name or "",
        status=info.status,
        params=dict(data.params),
        metrics=dict(data.metrics),
        tags=dict(data.tags),
        started_at=(info.start_time or 0) * 1000,
        ended_at=info.end_time * 1000 if info.end_time else None,
        artifact_uri=info.artifact_uri,
        is_deleted=info.lifecycle_stage == "deleted",
    )
