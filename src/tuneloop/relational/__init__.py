"""Learning from tables: what a person writes, and how it is read."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tuneloop.relational.dataset import Dataset
    from tuneloop.relational.making import make_task
    from tuneloop.relational.schema import CandidateKey, ForeignKey, LinkTask, NodeTask, Splits, Table

__all__ = ["CandidateKey", "Dataset", "ForeignKey", "LinkTask", "NodeTask", "Splits", "Table", "make_task"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'tuneloop.relational' has no attribute {name!r}")
    # On demand: a client that never sees a table loads no pydantic.
    module = {"Dataset": "dataset", "make_task": "making"}.get(name, "schema")
    return getattr(import_module(f"tuneloop.relational.{module}"), name)
