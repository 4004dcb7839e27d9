"""How good predictions are that came with labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tuneloop.errors import InvalidInput
from tuneloop.relational.labels import label_values
from tuneloop.relational.learner import Links
from tuneloop.relational.metrics import measure, measure_links
from tuneloop.relational.schema import LINK_METRICS, METRICS, LinkTask

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
    import pyarrow as pa
    import pyarrow.compute as pc

    task = model.task
    known = pc.is_valid(entities[task.label_column])
    labels = entities[task.label_column].filter(known)
    predicted = predicted.filter(known)
    if not len(labels):
        return {}
    if isinstance(task, LinkTask):
        if not pa.types.is_list(labels.type) and not pa.types.is_large_list(labels.type):
            return {}  # one link a row: what else an entity was linked to, a row does not say
        links = _links(predicted["prediction"])
        metrics = dict.fromkeys((task.evaluation_metric, *(f"{name}_at_{task.k}" for name in LINK_METRICS)))
        measured = {name: measure_links(name, labels, links) for name in metrics}
        return {name: value for name, value in measured.items() if value == value}
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


def _links(predicted: pa.ChunkedArray) -> Links:
    """Lists of `key` and `score` as a rectangle."""
    import pyarrow as pa
    import pyarrow.compute as pc

    lists = predicted.combine_chunks()
    sizes = pc.list_value_length(lists).to_numpy()
    rows = np.repeat(np.arange(len(sizes)), sizes)
    places = np.arange(len(rows)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    pairs = lists.flatten()
    shape = (len(sizes), max(int(sizes.max(initial=0)), 1))
    at = np.full(shape, -1)
    at[rows, places] = np.arange(len(rows))
    scores = np.full(shape, -np.inf)
    scores[rows, places] = pc.struct_field(pairs, "score").to_numpy()
    taken = pa.array(at.ravel(), mask=at.ravel() < 0)
    return Links(pc.struct_field(pairs, "key").take(taken), scores)
