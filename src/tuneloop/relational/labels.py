"""The labels of examples as numbers, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tuneloop.errors import InvalidInput
from tuneloop.relational.schema import NodeTask

if TYPE_CHECKING:
    import pyarrow as pa


def classes_of(task: NodeTask, labels: pa.ChunkedArray) -> tuple[str, ...]:
    """The classes of a task, as text, in their order; empty where labels are numbers."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if task.task_type == "multiclass_classification":
        return tuple(sorted(pc.unique(labels).cast(pa.string()).drop_null().to_pylist()))
    if task.task_type == "multilabel_classification":
        return tuple(sorted(pc.unique(pc.list_flatten(labels)).cast(pa.string()).drop_null().to_pylist()))
    return ()


def label_values(task: NodeTask, labels: pa.ChunkedArray, classes: tuple[str, ...]) -> NDArray[np.float64]:
    """Labels as numbers: (N,) of 0 and 1, class numbers or values; (N, C) of 0 and 1 for several labels.

    Raises:
        InvalidInput: a label is of a class that no training example has.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    known = pa.array(classes, pa.string())
    if task.task_type == "multilabel_classification":
        found = np.zeros((len(labels), len(classes)))
        parents = pc.list_parent_indices(labels.combine_chunks()).to_numpy()
        places = pc.index_in(pc.list_flatten(labels).cast(pa.string()), known)
        seen = pc.is_valid(places).to_numpy(zero_copy_only=False)
        found[parents[seen], places.drop_null().to_numpy().astype(int)] = 1.0
        return found
    if task.task_type == "multiclass_classification":
        places = pc.index_in(labels.cast(pa.string()), known)
        if places.null_count:
            odd = labels.filter(pc.is_null(places))[0].as_py()
            raise InvalidInput(f"the label {odd!r} is in no training example: split so that training sees every class")
        return np.asarray(places.to_numpy(), float)
    return np.asarray(pc.cast(labels, pa.float64()).to_numpy(), float)
