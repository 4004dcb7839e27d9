"""Fitted trees over an entity's features, and the plan of the features: what `boosted` comes to for node tasks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from tuneloop.errors import InvalidInput
from tuneloop.relational.boosted import Trees, load_booster
from tuneloop.relational.dataset import Dataset
from tuneloop.relational.examples import Examples
from tuneloop.relational.features import Feature
from tuneloop.relational.learner import Fitted, Importance, Watcher
from tuneloop.relational.opening import OpenTables
from tuneloop.relational.plan import Plan
from tuneloop.relational.prepare import compute_features

_DOCUMENT = "boosted.json"


@dataclass(frozen=True)
class Member:
    """Trees, and which of the features they see, by number."""

    columns: NDArray[np.int64]
    trees: Trees


class BoostedModel(Fitted):
    """Fitted trees, and the plan of the features that they look at.

    Args:
        plan: what is computed of examples.
        features: what the columns are.
        members: trees whose predictions are averaged.
        classes: of a task that has several.
    """

    learner = "boosted"

    def __init__(
        self,
        plan: Plan,
        features: Sequence[Feature],
        members: Sequence[Member],
        classes: Sequence[str],
    ) -> None:
        self._plan = plan
        self._features = tuple(features)
        self._members = tuple(members)
        self.classes = tuple(classes)

    def predict(
        self, dataset: Dataset, data: OpenTables, examples: Examples, labelled: Examples | None, watcher: Watcher
    ) -> NDArray[np.float64]:
        """Probabilities or numbers, (N,), or (N, C) of classes or several labels, in the order of `classes`."""
        watcher.progress("computing features")
        features = compute_features(self._plan, dataset, data, examples, labelled)
        watcher.check()
        if [each.name for each in features.columns] != [each.name for each in self._features]:
            raise InvalidInput("the tables' descriptions are not those that the model was fitted with: fit it again")
        return self.predict_features(features.values)

    def predict_features(self, values: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """The same of features, (N, F)."""
        found = [each.trees.predict(values[:, each.columns]) for each in self._members]
        return np.asarray(np.mean(found, axis=0))

    def importances(self) -> list[Importance]:
        """The features by their share of the gain."""
        gains = np.zeros(len(self._features))
        for each in self._members:
            gains[each.columns] += each.trees.importances() / len(self._members)
        order = np.argsort(-gains, kind="stable")
        return [
            Importance(self._features[at].words, self._features[at].table, float(gains[at]))
            for at in order
            if gains[at] > 0
        ]

    def save(self, folder: Path) -> None:
        """Write the plan as JSON and each booster as LightGBM text."""
        members = []
        for number, member in enumerate(self._members):
            files = []
            for place, bag in enumerate(member.trees.boosters):
                files.append([f"trees_{number}_{place}_{each}.txt" for each in range(len(bag))])
                for name, booster in zip(files[-1], bag, strict=True):
                    (folder / name).write_text(booster.model_to_string(), encoding="utf-8")
            members.append({"columns": member.columns.tolist(), "rounds": member.trees.best_rounds, "boosters": files})
        document = {
            "plan": self._plan.to_json(),
            "task_type": self._members[0].trees.task_type,
            "classes": self.classes,
            "features": [[each.name, each.words, each.table, each.codes] for each in self._features],
            "members": members,
        }
        (folder / _DOCUMENT).write_text(json.dumps(document), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        document = json.loads((folder / _DOCUMENT).read_text(encoding="utf-8"))
        members = []
        for member in document["members"]:
            bags = tuple(tuple(load_booster(folder / Path(name).name) for name in bag) for bag in member["boosters"])
            trees = Trees(bags, document["task_type"], member["rounds"])
            members.append(Member(np.array(member["columns"], np.int64), trees))
        features = [Feature(name, words, table, tuple(codes)) for name, words, table, codes in document["features"]]
        return cls(Plan.from_json(document["plan"]), features, members, document["classes"])
