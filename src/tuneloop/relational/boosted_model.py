"""Fitted trees and lines over an entity's features, and their plan: what `boosted` comes to for node tasks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from tuneloop.relational.boosted import Trees, load_booster
from tuneloop.relational.dataset import Dataset
from tuneloop.relational.examples import Examples
from tuneloop.relational.feature_queries import Feature
from tuneloop.relational.learner import Fitted, Importance, Watcher
from tuneloop.relational.linear import Linear
from tuneloop.relational.opening import OpenTables
from tuneloop.relational.plan import Plan
from tuneloop.relational.prepare import compute_features
from tuneloop.relational.schema import NodeTaskType

_DOCUMENT = "boosted.json"


@dataclass(frozen=True)
class Member:
    """One of the models whose predictions are averaged.

    Attributes:
        columns: which of the features it sees, by number.
        model: trees, or a linear model.
        share: how much it counts; those of all members come to one.
    """

    columns: NDArray[np.int64]
    model: Trees | Linear
    share: float


class BoostedModel(Fitted):
    """Fitted members, and the plan of the features that they look at.

    Args:
        plan: what is computed of examples.
        features: what the columns are.
        task_type: what is predicted.
        members: whose predictions are averaged.
        classes: of a task that has several.
    """

    learner = "boosted"

    def __init__(
        self,
        plan: Plan,
        features: Sequence[Feature],
        task_type: NodeTaskType,
        members: Sequence[Member],
        classes: Sequence[str],
    ) -> None:
        self._plan = plan
        self._task_type = task_type
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
        features.require([each.name for each in self._features])
        return self.predict_features(features.values)

    def predict_features(self, values: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """The same of features, (N, F)."""
        found = [each.share * each.model.predict(values[:, each.columns]) for each in self._members]
        return np.asarray(np.sum(found, axis=0))

    def importances(self) -> list[Importance]:
        """The features by their share of what predictions rest on: of the trees' gain, and of the lines' slopes."""
        shares = np.zeros(len(self._features))
        for each in self._members:
            shares[each.columns] += each.share * each.model.importances()
        order = np.argsort(-shares, kind="stable")
        return [
            Importance(self._features[at].words, self._features[at].table, float(shares[at]))
            for at in order
            if shares[at] > 0
        ]

    def save(self, folder: Path) -> None:
        """Write the plan as JSON, each booster as LightGBM text and each linear model as safetensors."""
        members: list[dict[str, Any]] = []
        for number, member in enumerate(self._members):
            written: dict[str, Any] = {"columns": member.columns.tolist(), "share": member.share}
            if isinstance(member.model, Linear):
                written["linear"] = f"linear_{number}.safetensors"
                member.model.save(folder / written["linear"])
            else:
                files = []
                for place, bag in enumerate(member.model.boosters):
                    files.append([f"trees_{number}_{place}_{each}.txt" for each in range(len(bag))])
                    for name, booster in zip(files[-1], bag, strict=True):
                        (folder / name).write_text(booster.model_to_string(), encoding="utf-8")
                written |= {"rounds": member.model.best_rounds, "boosters": files}
            members.append(written)
        document = {
            "plan": self._plan.to_json(),
            "task_type": self._task_type,
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
            model: Trees | Linear
            if "linear" in member:
                model = Linear.load(folder / Path(member["linear"]).name, document["task_type"])
            else:
                bags = [[load_booster(folder / Path(name).name) for name in bag] for bag in member["boosters"]]
                model = Trees(tuple(map(tuple, bags)), document["task_type"], member["rounds"])
            share = member.get("share", 1.0 / len(document["members"]))  # all alike, as they once were
            members.append(Member(np.array(member["columns"], np.int64), model, share))
        features = [Feature(name, words, table, tuple(codes)) for name, words, table, codes in document["features"]]
        plan = Plan.from_json(document["plan"])
        return cls(plan, features, document["task_type"], members, document["classes"])
