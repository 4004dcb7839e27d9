"""The examples of a dataset's task as its learners take them."""

from __future__ import annotations

from tuneloop.errors import InvalidInput
from tuneloop.relational.dataset import Dataset
from tuneloop.relational.examples import read_examples
from tuneloop.relational.learner import Folds
from tuneloop.relational.model import task_of
from tuneloop.relational.opening import OpenTables


def read_folds(dataset: Dataset, data: OpenTables) -> Folds:
    """The examples of each split, of tables opened with `model.opened(…, splits=True)`.

    Raises:
        InvalidInput: the task's splits are not known yet, as they are made by a template.
    """
    task = task_of(dataset)
    if task.source is None:
        raise InvalidInput("the task's examples are made by a template: make them first", field="dataset.task.template")
    found = read_examples(task, {name: data[f"task.{name}"] for name, _ in task.source.items()})
    return Folds(found["train"], found["validation"], found.get("test"))
