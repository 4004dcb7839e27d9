"""The shapes of datasets and of what is wrong with them."""

from pydantic import BaseModel, ConfigDict, Field

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
