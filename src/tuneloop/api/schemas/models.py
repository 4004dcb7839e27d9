"""The shapes of calls to models."""

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from tuneloop.api.schemas.common import Request, Time
from tuneloop.ids import ClientId

MAX_INPUTS = 2048


class RegisterRequest(Request):
    """Registers the best model of a task, or the model of a run: one of the two."""

    name: str = Field(min_length=1, max_length=256)
    task_id: ClientId | None = None
    run_id: ClientId | None = None
    description: str | None = Field(None, max_length=5000)

    @model_validator(mode="after")
    def _one_source(self) -> "RegisterRequest":
        if (self.task_id is None) == (self.run_id is None):
            raise ValueError("give either `task_id` or `run_id`")
        return self


class Registered(BaseModel):
    """A version of a registered model."""

    name: str
    version: str


class VersionAnswer(BaseModel):
    """A version of a model, with the run it came from and that run's metrics."""

    version: str
    description: str | None
    created_at: Time
    aliases: list[str]
    run_id: str | None
    metrics: dict[str, float]
    task_id: str | None = None
    method: str | None = None


class ModelAnswer(BaseModel):
    """A registered model: its versions, newest first, and the version that each alias names."""

    name: str
    description: str | None
    created_at: Time
    versions: list[VersionAnswer]
    aliases: dict[str, str]


class Models(BaseModel):
    """All registered models, by name."""

    models: list[ModelAnswer]


class AliasRequest(Request):
    """The version that an alias is to name."""

    version: Annotated[str, BeforeValidator(lambda value: str(value) if type(value) is int else value)] = Field(
        min_length=1, max_length=20, description="A number or `latest`.", examples=["1"]
    )


class AliasAnswer(BaseModel):
    """An alias and the version it names."""

    name: str
    alias: str
    version: str


class EmbedRequest(Request):
    """Texts to embed, as queries or as items."""

    inputs: list[str] = Field(min_length=1, max_length=MAX_INPUTS)
    kind: Literal["query", "item"] = "query"


class EmbedAnswer(BaseModel):
    """Unit-length embeddings in the order of the inputs, and the model that made them, `name/version`."""

    embeddings: list[list[float]]
    dimensions: int
    model: str


class EmbedItemsRequest(Request):
    """How to embed the catalogue; nothing need be said."""

    output: str | None = Field(
        None,
        max_length=200,
        pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*\.parquet$",
        description="Name of the file below TUNELOOP_EMBEDDINGS_URL; one of this name is replaced. "
        "By default a new name.",
        examples=["shop.parquet"],
    )
    idempotency_key: ClientId | None = Field(None, description="The same request with the same key is the same task.")


class RankItem(BaseModel):
    """A text to rank, with its id; other fields of an item are left aside."""

    model_config = ConfigDict(strict=True)

    object_id: ClientId
    text: str


class RankRequest(Request):
    """A query, and what to rank for it: items of the catalogue by id, or texts."""

    query: str = Field(min_length=1)
    object_ids: list[ClientId] | None = Field(None, min_length=1, max_length=10_000)
    items: list[RankItem] | None = Field(None, min_length=1, max_length=10_000)
    top_k: int | None = Field(None, ge=1, description="How many to answer; all when absent.")

    @model_validator(mode="after")
    def _one_source(self) -> "RankRequest":
        if (self.object_ids is None) == (self.items is None):
            raise ValueError("give either `object_ids` or `items`")
        return self


class Scored(BaseModel):
    """An item's score for the query."""

    object_id: str
    score: float


class RankAnswer(BaseModel):
    """Best first, and the model that ranked, `name/version`."""

    results: list[Scored]
    model: str
