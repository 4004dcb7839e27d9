"""The shapes of predictions of models learnt from tables."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StrictBool, model_validator

from tuneloop.ids import ClientId
from tuneloop.relational.dataset import Dataset

MAX_ENTITIES = 10_000


class PredictParams(BaseModel):
    """What to predict with."""

    model_config = ConfigDict(extra="forbid")

    dataset: Dataset | None = Field(None, description="Tables to look at instead of those recorded with the model.")


class PredictRequest(BaseModel):
    """Entities to predict for, or a table of them with an output: one of the two."""

    model_config = ConfigDict(extra="forbid")

    entities: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=MAX_ENTITIES)] | None = Field(
        None, description="Each has the key of the model's entity, and its time: Unix seconds or ISO 8601."
    )
    source: str | None = Field(None, min_length=1, max_length=10_000, description="A table of keys and times.")
    output: str | None = Field(
        None,
        min_length=1,
        max_length=10_000,
        description="A .parquet or .csv file, `file.duckdb#table`, `connection#schema.table`, or a bare name.",
    )
    overwrite: StrictBool = Field(False, description="Whether an output that exists is replaced.")
    embeddings: StrictBool = Field(False, description="Whether to add the embeddings of the entities.")
    params: PredictParams | None = None
    idempotency_key: ClientId | None = Field(None, description="The same request with the same key is the same task.")

    @model_validator(mode="after")
    def _one_way(self) -> "PredictRequest":
        if (self.entities is None) == (self.source is None):
            raise ValueError("give either `entities`, which are answered, or `source` and `output`")
        if (self.source is None) != (self.output is None):
            raise ValueError("`source` and `output` belong together")
        return self


class Link(BaseModel):
    """An entity's link, and its score among the entity's others."""

    key: Any
    score: float


class Prediction(BaseModel):
    """What is predicted for one entity."""

    prediction: Any = Field(None, description="A number, a class, or a list of classes.")
    probabilities: dict[str, float | None] | None = None
    links: list[Link] | None = Field(None, description="The most likely first.")
    embedding: list[float] | None = None


class Predictions(BaseModel):
    """Predictions in the order of the entities, and the model that made them, `name/version`."""

    predictions: list[Prediction]
    model: str
