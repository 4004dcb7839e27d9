"""The shapes of errors."""

from pydantic import BaseModel, Field


class Failure(BaseModel):
    """Why a request failed."""

    detail: str


class Problem(BaseModel):
    """One thing that is wrong with a request."""

    loc: list[str | int] = Field(description="Where: `body`, `query`, `path` or `header`, then the field.")
    msg: str
    type: str


class Invalid(BaseModel):
    """What is wrong with a request."""

    detail: list[Problem]


class OpenAIError(BaseModel):
    """What went wrong, as OpenAI's clients read it."""

    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIFailure(BaseModel):
    """Why a request failed, as OpenAI's clients read it."""

    error: OpenAIError
