"""What a person may say about a search over tables."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

LearnerName = Literal["boosted", "gnn"]


class RelationalSettings(BaseModel):
    """The settings of a task that learns from tables."""

    model_config = ConfigDict(extra="forbid")

    max_runs: int = Field(10, ge=1, le=1000, description="Runs (sets of settings) that are tried.")
    max_minutes: float | None = Field(
        10.0, gt=0, allow_inf_nan=False, description="Begin no new run after this many minutes; null for no limit."
    )
    learners: Annotated[list[LearnerName], Field(min_length=1)] | None = Field(
        None, description="The learners to try; all that can learn the task when absent."
    )
    blend: bool = Field(True, description="Whether the best runs of two learners predict together.")
    seed: int = Field(0, ge=0, lt=2**31, description="Of the search and of every run.")
    hops: Literal[1, 2] = Field(2, description="How many keys a feature follows from the entity.")
    text_model: str | None = Field(
        None,
        min_length=1,
        max_length=500,
        description="Sentence-transformers model that reads text columns; without one they are left aside.",
    )
