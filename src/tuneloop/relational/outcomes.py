"""How predictions turned out, and what that says of later ones of the same entity.

What a model misses of somebody it goes on missing for a while. Once the labels of examples that it was not fitted on
are known, its errors are: a later prediction of the same entity is moved by their mean, recent ones counting most, and
drawn towards nothing where there are few. That is the best linear unbiased prediction of an effect of the entity's own
(Robinson, That BLUP is a Good Thing: The Estimation of Random Effects, 1991), of probabilities a Newton step to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from tuneloop.relational.examples import Examples
from tuneloop.relational.judging import entity_numbers, value_of
from tuneloop.relational.labels import label_values
from tuneloop.relational.schema import LinkTask, NodeTask

MOST = 8  # outcomes of an entity that a prediction looks at, the last ones
HALF_LIVES = 2, 4  # horizons
STRENGTHS = 4, 8, 16, 32  # outcomes that count as much as that there is no effect
_SURE = 1e-12  # no probability is nearer to 0 or 1
_LEAST_SCALE = 1e-4  # of p (1 - p): who is always sure can be wrong
Values = NDArray[np.float64]
Numbers = NDArray[np.int64]
Pairs = tuple[Numbers, Numbers]
Held = tuple[Examples, Values]


@dataclass(frozen=True)
class Correction:
    """How much earlier errors count.

    Attributes:
        half_life: horizons after which an error counts half.
        prior: what counts against them, as the sum of so many weights; of probabilities of weights times p (1 - p).
        since: examples up to this time were learnt from, and their errors say nothing; None: none was.
    """

    half_life: float
    prior: float
    since: np.datetime64 | None = None

    def corrected(
        self,
        task: NodeTask,
        examples: Examples,
        predictions: Values,
        labelled: Examples,
        predicted: Values,
        pairs: Pairs,
    ) -> Values:
        """Predictions of examples, (N,), moved by how those of labelled ones, (M,), turned out.

        Args:
            task: what is predicted.
            examples, predictions: what is moved.
            labelled, predicted: what turned out.
            pairs: which of them each example looks at, see `outcomes`.
        """
        assert task.horizon is not None
        example, outcome = pairs
        ages = (examples.cuts[example] - labelled.times[outcome]) / np.timedelta64(task.horizon)
        weights = 0.5 ** (ages / self.half_life)
        turned_out = labelled.take(outcome).labels
        assert turned_out is not None
        labels, known = label_values(task, turned_out, ()), predicted[outcome]
        spread = known * (1 - known) if task.task_type == "binary_classification" else np.ones(len(known))
        errors = np.bincount(example, weights * (labels - known), len(examples))
        effect = errors / (np.bincount(example, weights * spread, len(examples)) + self.prior)
        if task.task_type == "regression":
            return predictions + effect
        moved = expit(logit(np.clip(predictions, _SURE, 1 - _SURE)) + effect)
        return np.where(effect == 0, predictions, moved)

    def to_json(self) -> dict[str, Any]:
        """It as JSON values."""
        since = None if self.since is None else str(self.since)
        return {"half_life": self.half_life, "prior": self.prior, "since": since}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Self:
        """What `to_json` wrote."""
        since = None if document["since"] is None else np.datetime64(document["since"], "us")
        return cls(document["half_life"], document["prior"], since)


def outcomes(task: NodeTask, examples: Examples, labelled: Examples, *, since: np.datetime64 | None = None) -> Pairs:
    """The outcomes that predictions look at, pair by pair: numbers of the examples, and of the labelled.

    Of an example those of its entity that were known by its cut-off, the last ones; none up to `since`.
    """
    assert task.horizon is not None and labelled.labels is not None
    known = labelled.times + np.timedelta64(task.horizon)
    good = labelled.labels.is_valid().to_numpy()
    if since is not None:
        good &= labelled.times > since
    entity, other = np.split(entity_numbers(replace(examples, labels=None) + labelled), [len(examples)])
    rows = np.flatnonzero(good & np.isin(other, entity))
    moments, place = np.unique(np.concatenate([known[rows], examples.cuts]), return_inverse=True)
    turns = other[rows] * len(moments) + place[: len(rows)]  # by entity, and then by when they were known
    order = np.argsort(turns, kind="stable")
    rows, turns = rows[order], turns[order]
    first = np.searchsorted(turns, entity * len(moments))
    end = np.searchsorted(turns, entity * len(moments) + place[len(rows) :], side="right")
    count = np.minimum(end - first, MOST)
    example = np.repeat(np.arange(len(examples)), count)
    back = np.arange(len(example)) - np.repeat(np.cumsum(count) - count, count)
    return example, rows[np.repeat(end - count, count) + back]


def can_be_corrected(task: NodeTask | LinkTask) -> bool:
    """Whether errors of a task's predictions are single numbers that become known."""
    if not isinstance(task, NodeTask) or task.horizon is None or task.time_column is None:
        return False
    return task.task_type in ("binary_classification", "regression")


def choose_correction(task: NodeTask, held: Sequence[Held]) -> Correction | None:
    """What serves held-out predictions best, by the mean of the task's metric over splits; None where nothing does.

    Args:
        task: what is predicted.
        held: validation splits, each with its predictions, (N,), by a model that learnt from none of it.
    """
    pairs = [outcomes(task, examples, examples) for examples, _ in held]
    if not any(len(example) for example, _ in pairs):
        return None
    scale = 1.0
    if task.task_type == "binary_classification":
        every = np.concatenate([predictions for _, predictions in held])
        scale = max(float((every * (1 - every)).mean()), _LEAST_SCALE)
    candidates = [Correction(each, strength * scale) for each in HALF_LIVES for strength in STRENGTHS]
    sign = 1 if task.maximise else -1
    values = [sign * _mean(task, held, pairs, each) for each in (None, *candidates)]
    best = int(np.argmax(np.nan_to_num(values, nan=-np.inf)))
    return candidates[best - 1] if best else None


def _mean(task: NodeTask, held: Sequence[Held], pairs: Sequence[Pairs], correction: Correction | None) -> float:
    """The task's metric of the splits, those left out in which it is not defined."""
    found = []
    for (examples, predictions), each in zip(held, pairs, strict=True):
        if correction is not None:
            predictions = correction.corrected(task, examples, predictions, examples, predictions, each)
        found.append(value_of(task, task.evaluation_metric, examples, predictions, ()))
    return float(np.nanmean(found))
