"""From a dataset to what a learner takes: features and labels of each split, under a protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tuneloop.relational.boosted import Labels
from tuneloop.relational.examples import Examples, read_examples
from tuneloop.relational.features import Computer, Features
from tuneloop.relational.labels import classes_of, label_values
from tuneloop.relational.opening import OpenTables
from tuneloop.relational.plan import Measured, Plan, Planner, Source, choose_windows
from tuneloop.relational.schema import NodeTask, Table
from tuneloop.relational.ways import Way

if TYPE_CHECKING:
    import ibis
    import pyarrow as pa


class NodePreparation:
    """Reads examples, plans, and computes features.

    Args:
        tables: the tables' descriptions.
        task: what is predicted.
        data: the tables' rows.
        splits: the rows of the task's splits, in the same engine.
        hops: how many keys are followed.
        use_history: whether earlier labels of an entity are features, where the task has a horizon.
    """

    def __init__(
        self,
        tables: Sequence[Table],
        task: NodeTask,
        data: OpenTables,
        splits: Mapping[str, ibis.Table],
        *,
        hops: int = 2,
        use_history: bool = True,
    ) -> None:
        self._tables = tables
        self._task = task
        self._data = data
        self.examples = read_examples(task, splits)
        labels = self.examples["train"].labels
        assert labels is not None
        self.classes = classes_of(task, labels)
        numeric = task.task_type in ("binary_classification", "regression")
        self._history = use_history and numeric and task.horizon is not None
        self.plan = self._make_plan(hops)

    def _make_plan(self, hops: int) -> Plan:
        train = self.examples["train"]
        last = train.times.max()
        planner = Planner(
            list(self._tables),
            self._data,
            self._task.entity,
            None if np.isnat(last) else last.astype("datetime64[us]").item(),
        )
        history = None
        if self._history:
            history = Source(
                way=Way(self._task.entity.table, "key"),
                timed=True,
                windows=_label_windows(train),
                numbers=(Measured("label"),),
                categories=(),
            )
        times = len(np.unique(train.times))
        return planner.plan(hops=hops, examples=len(train), times=times, history=history)

    def compute(self, examples: Examples, labelled: Examples) -> Features:
        """The features of examples.

        Args:
            examples: whom and when.
            labelled: whose labels may be features, where they were known by the cut-off.
        """
        engine = self._data.engine
        history = None
        if self._history:
            assert self._task.horizon is not None
            history = _bring(engine, labelled.history(self._task.horizon))
        computer = Computer(self.plan, self._tables, self._data, history)
        return computer.compute(_bring(engine, examples.table()), len(examples))

    def labels(self, examples: Examples) -> Labels:
        """The labels as numbers.

        Raises:
            InvalidInput: a label is of a class that no training example has.
        """
        assert examples.labels is not None
        return Labels(label_values(self._task, examples.labels, self.classes), self.classes)


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


def _bring(engine: Any, table: pa.Table) -> ibis.Table:
    """Rows of ours as a table of the engine."""
    import ibis

    name = ibis.util.gen_name("examples")
    brought = engine.create_table(name, schema=ibis.schema(table.schema), temp=True)
    engine.insert(name, table)
    return brought
