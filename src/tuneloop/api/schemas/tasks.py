"""The shapes of tasks and methods."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from tuneloop.api.schemas.common import OwnId, Request, Status, Time
from tuneloop.ids import ClientId, JsonValue


class TaskRequest(Request):
    """Asks for an iteration of a method over a batch."""

    fine_tuning_method: str = Field(min_length=1, max_length=200)
    batch_id: ClientId | None = Field(None, description="A released batch; without it the collecting one is released.")
    metadata: dict[str, JsonValue] | None = Field(None, description="Yours; it comes back with the task.")
    settings: dict[str, Any] | None = Field(None, description="As in the method's `settings_schema`.")
    idempotency_key: ClientId | None = Field(None, description="The same request with the same key is the same task.")


class Progress(BaseModel):
    """How far a task has come."""

    model_config = ConfigDict(extra="allow")

    stage: str | None = None
    runs_done: int | None = None
    runs_total: int | None = None
    epoch: int | None = None
    epochs: int | None = None
    items_done: int | None = None
    items_total: int | None = None
    items_encoded: int | None = Field(None, description="Items that this attempt encoded; the others were known.")


class TaskFields(BaseModel):
    """What every task has."""

    id: OwnId
    status: Status
    created_at: Time
    updated_at: Time
    batch_id: OwnId | None
    metadata: dict[str, Any] | None = None
    settings: dict[str, Any] | None = None
    idempotency_key: str | None = None
    progress: Progress | None = None
    detail: str | None = Field(
        None, description="How good the best model is, why there is none, what became of it, or why it failed."
    )
    start_run_id: str | None = Field(None, description="The MLflow run whose model the iteration started from.")
    best_run_id: str | None = Field(None, description="The MLflow run whose model is the best.")
    best_model_url: str | None = Field(None, description="Downloads the weights of the best model, safetensors.")
    best_run_url: str | None = Field(None, description="The best run's page in MLflow.")
    experiment_url: str | None = Field(None, description="The iteration's page in MLflow.")


class FineTuningTask(TaskFields):
    """A fine-tuning task."""

    fine_tuning_method: str


class Task(TaskFields):
    """A task of any kind: `fine_tuning`, `embed_items`, `relational`, `predict`."""

    kind: str
    dataset: dict[str, Any] | None = Field(None, description="The tables and the task that it is about.")
    fine_tuning_method: str | None = None
    output: str | None = Field(None, description="What the task wrote, where it wrote something.")


class Log(BaseModel):
    """What a task printed."""

    lines: list[str]
    next: str = Field(description="`after` of the next call.")


class MethodAnswer(BaseModel):
    """A way to learn."""

    name: str
    version: str
    description: str
    main_metric: str | None
    settings_schema: dict[str, Any] = Field(description="JSON Schema of the task's `settings`.")


class FailedMethod(BaseModel):
    """A plugin that could not be used."""

    source: str
    error: str


class Methods(BaseModel):
    """The methods there are, and the plugins that failed."""

    methods: list[MethodAnswer]
    failed: list[FailedMethod]
