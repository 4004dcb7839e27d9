"""The shapes of datasets and of what is wrong with them."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from tuneloop.api.schemas.errors import Problem
from tuneloop.ids import ClientId, JsonValue
from tuneloop.relational.dataset import Dataset


class DatasetRequest(BaseModel):
    """A dataset to look at."""

    model_config = ConfigDict(extra="forbid")

    dataset: Dataset


class DatasetProblem(BaseModel):
    """One thing that is wrong with a dataset."""

    table: str = Field(description="A table of the dataset, or a split of its task: `task.train`.")
    column: str | None
    problem: str
    fix: str


class Problems(BaseModel):
    """All that is wrong; empty when all is well."""

    problems: list[DatasetProblem]


class Refused(BaseModel):
    """What is wrong with the request, or with the dataset in it."""

    detail: list[DatasetProblem] | list[Problem]


class RelationalTaskRequest(BaseModel):
    """Asks for a model of a dataset's task."""

    model_config = ConfigDict(extra="forbid")

    dataset: Dataset
    settings: dict[str, Any] | None = Field(None, description="Of the search: `max_runs`, `max_minutes`, `learners`, …")
    metadata: dict[str, JsonValue] | None = Field(None, description="Yours; it comes back with the task.")
    idempotency_key: ClientId | None = Field(None, description="The same request with the same key is the same task.")


class LocalFile(BaseModel):
    """A file as its owner sees it."""

    model_config = ConfigDict(extra="forbid")

    source: str = Field(min_length=1, max_length=10_000, description="An absolute path, or an upload.")
    size: int | None = Field(None, ge=0, description="Bytes, of a path.")
    modified_ns: int | None = Field(None, ge=0, description="When it was last written, nanoseconds, of a path.")


class SourcesRequest(BaseModel):
    """Which of these can the service read?"""

    model_config = ConfigDict(extra="forbid")

    sources: list[LocalFile] = Field(max_length=10_000)


class Missing(BaseModel):
    """The sources that the service cannot read, or that are other files where it runs."""

    missing: list[str]


class Uploaded(BaseModel):
    """A file that was stored."""

    source: str = Field(description="Usable as a table's `source`.", examples=["upload:9f86d0….parquet"])
