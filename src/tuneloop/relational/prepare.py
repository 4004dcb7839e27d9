"""From a dataset to what a learner takes: features and labels of examples."""

from __future__ import annotations

from dataclasses import replace
from operator import is_

import numpy as np

from tuneloop.relational.boosted import Labels
from tuneloop.relational.dataset import Dataset
from tuneloop.relational.examples import Examples
from tuneloop.relational.features import Computer, Features
from tuneloop.relational.labels import classes_of as label_classes
from tuneloop.relational.labels import label_values
from tuneloop.relational.opening import OpenTables
from tuneloop.relational.plan import Measured, Plan, Planner, Source, choose_windows
from tuneloop.relational.schema import NodeTask
from tuneloop.relational.ways import Way

MOST_KEPT = 256 << 20  # bytes of features that may be asked for once more


def plan_features(
    dataset: Dataset, data: OpenTables, train: Examples, *, hops: int = 2, use_history: bool = True
) -> Plan:
    """What is computed of examples.

    Args:
        dataset: the tables' descriptions and the task.
        data: the tables' rows.
        train: the training examples; rows after the last of them choose nothing.
        hops: how many keys are followed.
        use_history: whether earlier labels of an entity are features, where the task has a horizon.
    """
    task = _node_task(dataset)
    last = train.times.max()
    until = None if np.isnat(last) else last.astype("datetime64[us]").item()
    planner = Planner(list(dataset.tables), data, task.entity, until)
    history = None
    numeric = task.task_type in ("binary_classification", "regression")
    if use_history and numeric and task.horizon is not None and until is not None:
        history = Source(
            way=Way(task.entity.table, "key"),
            timed=True,
            windows=_label_windows(train),
            numbers=(Measured("label"),),
            categories=(),
        )
    times = len(np.unique(train.times))
    return planner.plan(hops=hops, examples=len(train), times=times, history=history)


def compute_features(
    plan: Plan, dataset: Dataset, data: OpenTables, examples: Examples, labelled: Examples | None
) -> Features:
    """The features of examples.

    Args:
        plan: what is computed.
        dataset: the tables' descriptions and the task.
        data: the tables' rows.
        examples: whom and when.
        labelled: whose labels may be features, where they were known by the cut-off.
    """
    asked = plan, dataset, examples, labelled
    if data.last is not None and data.last[0][0] == plan and all(map(is_, data.last[0][1:], asked[1:])):
        found: Features = data.last[1]
        return found  # learners that predict together ask the same
    found = _computed(*asked, data)
    data.last = (asked, found) if found.values.nbytes <= MOST_KEPT else None
    return found


def _computed(
    plan: Plan, dataset: Dataset, examples: Examples, labelled: Examples | None, data: OpenTables
) -> Features:
    history = None
    if plan.history is not None:
        horizon = _node_task(dataset).horizon
        assert horizon is not None
        if labelled is None or labelled.labels is None:  # the features stay, and say that nothing is known
            labelled = _nobody(examples)
        history = data.bring(labelled.history(horizon), "history")
    computer = Computer(plan, dataset.tables, data, history)
    return computer.compute(data.bring(examples.table(), "examples"), len(examples))


def classes_of(task: NodeTask, examples: Examples) -> tuple[str, ...]:
    """The classes of a task that has several, as text, in their order."""
    assert examples.labels is not None
    return label_classes(task, examples.labels)


def labels_of(task: NodeTask, examples: Examples, classes: tuple[str, ...]) -> Labels:
    """The labels as numbers.

    Raises:
        InvalidInput: a label is of a class that no training example has.
    """
    assert examples.labels is not None
    return Labels(label_values(task, examples.labels, classes), classes)


def _node_task(dataset: Dataset) -> NodeTask:
    assert isinstance(dataset.task, NodeTask)
    return dataset.task


def _nobody(examples: Examples) -> Examples:
    import pyarrow as pa

    none = examples.take(np.empty(0, np.int64))
    return replace(none, labels=pa.chunked_array([], pa.float64()))


def aged_copies(examples: Examples, like: Examples, copies: int, seed: int) -> Examples:
    """Examples as a database that ended earlier would show them: each so many times, with ages drawn from others.

    Cut-offs are whole months, so that many examples share one.

    Args:
        examples: each sees all rows up to its time.
        like: the examples whose ages, from the cut-off to the time, are drawn.
        copies: of each example.
        seed: of the choice.
    """
    ages = like.times - like.cuts
    rng = np.random.default_rng(seed)
    found = None
    for _ in range(copies):
        cuts = (examples.times - rng.choice(ages, len(examples))).astype("datetime64[M]").astype("datetime64[us]")
        aged = replace(examples, cuts=cuts)
        found = aged if found is None else found + aged
    assert found is not None
    return found


def _label_windows(train: Examples) -> tuple[int, ...]:
    order = np.lexsort((train.times, np.unique(train.keys.to_numpy(), return_inverse=True)[1]))
    keys, times = train.keys.to_numpy()[order], train.times[order]
    same = keys[1:] == keys[:-1]
    gaps = (times[1:] - times[:-1])[same] / np.timedelta64(86_400_000_000, "us")
    if not len(gaps) or not gaps.mean():
        return ()
    return choose_windows(float(gaps.mean()), float((times.max() - times.min()) / np.timedelta64(86_400_000_000, "us")))
