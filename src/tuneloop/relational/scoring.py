"""How good predictions are that came with labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tuneloop.errors import InvalidInput
from tuneloop.relational.labels import label_values
from tuneloop.relational.metrics import measure
from tuneloop.relational.schema import METRICS, LinkTask

if TYPE_CHECKING:
    import pyarrow as pa

    from tuneloop.relational.model import TableModel


def score(model: TableModel, entities: pa.Table, predicted: pa.Table) -> dict[str, float]:
    """The metrics of a model's task type, its own first; those left out that are not defined.

    Args:
        model: what predicted.
        entities: the examples with their labels; those without one are left aside.
        predicted: `prediction`, and `probabilities` where there are classes, in the same order.
    """
    import pyarrow.compute as pc

    task = model.task
    known = pc.is_valid(entities[task.label_column])
    labels = entities[task.label_column].filter(known)
    predicted = predicted.filter(known)
    if not len(labels) or isinstance(task, LinkTask):
        return {}
    try:
        values = label_values(task, labels, model.classes)
    except InvalidInput:  # a class that the model has never seen
        return {}
    if model.classes:
        each = predicted["probabilities"].combine_chunks()
        guesses = np.stack([each.field(number).to_numpy() for number in range(len(model.classes))], axis=1)
    else:
        guesses = predicted["prediction"].to_numpy()
    names = dict.fromkeys((task.evaluation_metric, *METRICS[task.task_type]))
    found = {name: measure(name, values, guesses) for name in names}
    return {name: value for name, value in found.items() if value == value}
