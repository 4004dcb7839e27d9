"""Learning from tables: what a person writes, and how it is read."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tuneloop.relational.dataset import Dataset
    from tuneloop.relational.schema import CandidateKey, ForeignKey, LinkTask, NodeTask, Splits, Table

__all__ = ["CandidateKey", "Dataset", "ForeignKey", "LinkTask", "NodeTask", "Splits", "Table"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'tuneloop.relational' has no attribute {name!r}")
    # On demand: a client that never sees a table loads no pydantic.
    return getattr(import_module(f"tuneloop.relational.{'dataset' if name == 'Dataset' else 'schema'}"), name)
