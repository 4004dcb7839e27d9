"""Learning from tables: what a person writes, and how it is read."""

from tuneloop.relational.dataset import Dataset
from tuneloop.relational.schema import CandidateKey, ForeignKey, LinkTask, NodeTask, Splits, Table

__all__ = ["CandidateKey", "Dataset", "ForeignKey", "LinkTask", "NodeTask", "Splits", "Table"]
