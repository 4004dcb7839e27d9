"""OpenAI's shapes."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from tuneloop.api.schemas.models import MAX_INPUTS


def _texts(value: Any) -> Any:
    """One text as a list of one; token arrays are refused by name."""
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list):
        raise ValueError("must be a string or a list of strings")
    if any(isinstance(element, int | list) for element in value):
        raise ValueError("token arrays are not supported: send the texts themselves")
    if "" in value:
        raise ValueError("must not hold an empty string")
    return value


class EmbeddingsRequest(BaseModel):
    """OpenAI's request for embeddings; `kind` is ours. Other fields of its clients are left aside."""

    model_config = ConfigDict(strict=True)

    model: str = Field(min_length=1, max_length=1000, description="`name/version`, `name/latest` or `name/@alias`.")
    input: Annotated[
        list[str],
        Field(min_length=1, max_length=MAX_INPUTS),
        BeforeValidator(_texts),
        WithJsonSchema(
            {
                "anyOf": [
                    {"type": "string", "minLength": 1},
                    {
                        "type": "array",
                        "items": {"type": "string", "minLength": 1},
                        "minItems": 1,
                        "maxItems": MAX_INPUTS,
                    },
                ]
            }
        ),
    ]
    encoding_format: Literal["float", "base64"] | None = "float"
    dimensions: int | None = Field(None, ge=1, description="Only the model's own number of dimensions.")
    user: str | None = Field(None, description="Accepted, and not kept.")
    kind: Literal["query", "item"] = "query"


class Embedding(BaseModel):
    """One embedding: numbers, or little-endian float32 in base64."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class Usage(BaseModel):
    """Tokens read."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsAnswer(BaseModel):
    """Embeddings in the order of the inputs."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: Usage


class OpenAIModel(BaseModel):
    """A version of a model."""

    id: str
    object: Literal["model"]
    created: int = Field(description="Unix seconds.")
    owned_by: str


class OpenAIModels(BaseModel):
    """All versions of all models."""

    object: Literal["list"]
    data: list[OpenAIModel]
