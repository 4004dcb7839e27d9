"""The shapes of answers about the service."""

from typing import Literal

from pydantic import BaseModel


class Pong(BaseModel):
    """The service answers."""

    ping: Literal["pong"]


class MlflowAddress(BaseModel):
    """Where people look at experiments."""

    url: str


class Part(BaseModel):
    """Whether a part of the service answers, and what is wrong when it does not."""

    ok: bool
    detail: str


class Health(BaseModel):
    """How the service is: `ok` when every part is."""

    status: Literal["ok", "error"]
    parts: dict[Literal["database", "queue", "mlflow"], Part]
