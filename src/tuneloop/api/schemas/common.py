"""What the shapes of several sections share."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

MAX_LIMIT = 1000
MAX_SKIP = 2**31 - 1

Time = Annotated[str, Field(description="UTC.", examples=["2023-12-21T14:30:25.823000"])]
OwnId = Annotated[str, Field(description="24 hex digits.", examples=["65844a671089823652b83d43"])]
Status = Literal["pending", "processing", "done", "canceled", "error"]


class Request(BaseModel):
    """A request body; fields it does not know are refused."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Deleted(BaseModel):
    """How many were deleted."""

    deleted: int
