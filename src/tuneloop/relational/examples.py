"""The examples of a task: whom each is about, when, with which label, and what it may see."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tuneloop.relational.link_examples import as_lists
from tuneloop.relational.schema import LinkTask, NodeTask

if TYPE_CHECKING:
    import ibis
    import pyarrow as pa

Times = NDArray[np.datetime64]


@dataclass(frozen=True)
class Examples:
    """Examples of one split, or of several.

    Attributes:
        keys: whom each is about, (N,) of the entity's key.
        times: when a prediction is made, (N,) datetime64[us]; NaT where the task has no time.
        cuts: nothing later than this is seen, (N,), never later than the time.
        labels: what is to be predicted, (N,); None where that is not known.
    """

    keys: pa.ChunkedArray
    times: Times
    cuts: Times
    labels: pa.ChunkedArray | None = None

    def __len__(self) -> int:
        return len(self.times)

    def frozen_at(self, cut: np.datetime64) -> Examples:
        """The same, of a database that ends at this time."""
        return replace(self, cuts=np.minimum(self.cuts, cut))

    def take(self, rows: NDArray[np.integer[Any]]) -> Examples:
        """Some of them, in this order."""
        import pyarrow as pa

        at = pa.array(rows)
        return Examples(
            self.keys.take(at),
            self.times[rows],
            self.cuts[rows],
            None if self.labels is None else self.labels.take(at),
        )

    def __add__(self, other: Examples) -> Examples:
        """These and then those."""
        import pyarrow as pa

        labels = None
        if self.labels is not None and other.labels is not None:
            labels = pa.chunked_array([*self.labels.chunks, *other.labels.chunks])
        return Examples(
            pa.chunked_array([*self.keys.chunks, *other.keys.chunks]),
            np.concatenate([self.times, other.times]),
            np.concatenate([self.cuts, other.cuts]),
            labels,
        )

    def table(self) -> pa.Table:
        """They as what features are computed of: row, key, time, cut."""
        import pyarrow as pa

        return pa.table(
            {"row": np.arange(len(self)), "key": self.keys, "time": pa.array(self.times), "cut": pa.array(self.cuts)}
        )

    def history(self, horizon: timedelta) -> pa.Table:
        """Their labels as rows that become known when the horizon has passed: key, known, label as a number."""
        import pyarrow as pa
        import pyarrow.compute as pc

        assert self.labels is not None
        known = self.times + np.timedelta64(horizon)
        return pa.table({"key": self.keys, "known": pa.array(known), "label": pc.cast(self.labels, pa.float64())})


def read_examples(task: NodeTask | LinkTask, splits: Mapping[str, ibis.Table]) -> dict[str, Examples]:
    """The examples of each split; each sees all rows up to its time. Those of links have a list of targets each.

    Args:
        task: what the columns mean.
        splits: the split's rows.
    """
    found = {}
    for name, rows in splits.items():
        wanted: dict[str, Any] = {"key": rows[task.entity.column], "label": rows[task.label_column]}
        if task.time_column is not None:
            wanted["time"] = rows[task.time_column].cast("timestamp")
        answer = rows.select(**wanted).to_pyarrow()
        if task.time_column is not None:
            times = answer["time"].to_numpy().astype("datetime64[us]")
        else:
            times = np.full(len(answer), np.datetime64("NaT", "us"))
        keys, labels = answer["key"], answer["label"]
        if isinstance(task, LinkTask):
            keys, times, labels = as_lists(keys, times, labels)
        found[name] = Examples(keys, times, times.copy(), labels)
    return found
