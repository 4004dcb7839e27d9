"""How predictions turned out, and what that says of later ones.

What a model misses of somebody it goes on missing for a while. Once the labels of examples that it was not fitted on
are known, its errors are: a later prediction of the same entity is moved by their mean, recent ones counting most, and
drawn towards nothing where there are few. That is the best linear unbiased prediction of an effect of the entity's own
(Robinson, That BLUP is a Good Thing: The Estimation of Random Effects, 1991), of probabilities a Newton step to it.

Where the whole world has moved, the errors of everybody say so: of values, a line through the last of them, by what was
predicted, comes before what is an entity's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self, TypeGuard

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from tuneloop.relational.backtest import recent_mean
from tuneloop.relational.examples import Examples, Times
from tuneloop.relational.judging import entity_numbers, value_of
from tuneloop.relational.labels import label_values
from tuneloop.relational.schema import LinkTask, NodeTask

MOST = 12  # outcomes of an entity that a prediction looks at, the last ones
RECENT = 1000  # outcomes of everybody, likewise
HALF_LIVES = 2, 4  # horizons
STRENGTHS = 4, 8, 16, 32  # outcomes that count as much as that there is no effect
COMMON_STRENGTH = 64  # the same of what everybody has in common
_SURE = 1e-12  # no probability is nearer to 0 or 1
_LEAST_SCALE = 1e-4  # of p (1 - p): who is always sure can be wrong
Values = NDArray[np.float64]
Numbers = NDArray[np.int64]
Held = tuple[Examples, Values]


def _none() -> Numbers:
    return np.zeros(0, np.int64)


@dataclass(frozen=True)
class Outcomes:
    """Which outcomes predictions look at, as numbers of the labelled examples.

    Attributes:
        example, outcome: pairs of an example and an outcome of its entity, (P,).
        everybody: outcomes in the order in which they were known, (K,); of which an example looks at those from `first`
            to before `end`, (N,).
    """

    example: Numbers
    outcome: Numbers
    everybody: Numbers = field(default_factory=_none)
    first: Numbers = field(default_factory=_none)
    end: Numbers = field(default_factory=_none)

    @property
    def rows(self) -> Numbers:
        """All of them, in order."""
        return np.unique(np.concatenate([self.outcome, self.everybody]))

    def among(self, rows: Numbers) -> Outcomes:
        """The same, counted among some rows that hold them all, in order."""
        outcome, everybody = (np.searchsorted(rows, each) for each in (self.outcome, self.everybody))
        return replace(self, outcome=outcome, everybody=everybody)


@dataclass(frozen=True)
class Line:
    """How far and how steep what everybody has in common may be.

    Attributes:
        center, scale: the mean and the deviation of predictions.
        strength: outcomes that count as much as that there is nothing in common.
    """

    center: float
    scale: float
    strength: float = COMMON_STRENGTH

    def sides(self, predictions: Values) -> Values:
        """What the line is of, (N, 2): one, and how much is predicted."""
        return np.stack([np.ones(len(predictions)), (predictions - self.center) / self.scale], axis=1)

    def fit(self, sides: Values, errors: Values, weights: Values) -> Values:
        """The line through errors, (2,): ridge regression."""
        weighed = sides.T * weights
        return np.asarray(np.linalg.solve(weighed @ sides + self.strength * np.eye(2), weighed @ errors))


@dataclass(frozen=True)
class Correction:
    """How much earlier errors count.

    Attributes:
        half_life: horizons after which an error counts half.
        prior: what counts against them, as the sum of so many weights; of probabilities of weights times p (1 - p).
        since: examples up to this time were learnt from, and their errors say nothing; None: none was.
        common: of values, what is corrected by the errors of everybody; None: nothing.
    """

    half_life: float
    prior: float
    since: np.datetime64 | None = None
    common: Line | None = None

    def outcomes(self, task: NodeTask, examples: Examples, labelled: Examples) -> Outcomes:
        """Which of the labelled examples those to be corrected look at."""
        return outcomes(task, examples, labelled, since=self.since, everybody=self.common is not None)

    def corrected(
        self,
        task: NodeTask,
        examples: Examples,
        predictions: Values,
        labelled: Examples,
        predicted: Values,
        looked_at: Outcomes,
    ) -> Values:
        """Predictions of examples, (N,), moved by how those of labelled ones, (M,), turned out.

        Args:
            task: what is predicted.
            examples, predictions: what is moved.
            labelled, predicted: what turned out.
            looked_at: which of them each example looks at: what `outcomes` gives.
        """
        assert task.horizon is not None
        errors = np.zeros(len(labelled))
        rows = looked_at.rows
        turned_out = labelled.take(rows).labels
        assert turned_out is not None
        errors[rows] = label_values(task, turned_out, ()) - predicted[rows]
        example, outcome = looked_at.example, looked_at.outcome
        weights = self._weights(task, examples.cuts[example], labelled.times[outcome])
        own, shift = errors[outcome], np.zeros(len(examples))
        if self.common is not None:
            sides = self.common.sides(predicted)
            lines = self._lines(self.common, task, examples, labelled, sides, errors, looked_at)
            shift = (lines * self.common.sides(predictions)).sum(axis=1)
            own = own - (lines[example] * sides[outcome]).sum(axis=1)
        known = predicted[outcome]
        spread = known * (1 - known) if task.task_type == "binary_classification" else np.ones(len(known))
        total = np.bincount(example, weights * spread, len(examples))
        effect = np.bincount(example, weights * own, len(examples)) / (total + self.prior)
        if task.task_type == "regression":
            return predictions + shift + effect
        moved = expit(logit(np.clip(predictions, _SURE, 1 - _SURE)) + effect)
        return np.where(effect == 0, predictions, moved)

    def _lines(
        self,
        common: Line,
        task: NodeTask,
        examples: Examples,
        labelled: Examples,
        sides: Values,
        errors: Values,
        looked_at: Outcomes,
    ) -> Values:
        """What everybody has in common at each example's cut-off, (N, 2)."""
        moments, first_of, moment = np.unique(examples.cuts, return_index=True, return_inverse=True)
        lines = np.zeros((len(moments), 2))
        for place, (cut, row) in enumerate(zip(moments, first_of, strict=True)):
            seen = looked_at.everybody[looked_at.first[row] : looked_at.end[row]]
            lines[place] = common.fit(sides[seen], errors[seen], self._weights(task, cut, labelled.times[seen]))
        return lines[moment]

    def _weights(self, task: NodeTask, cuts: Times | np.datetime64, times: Times) -> Values:
        """How much errors of examples at some times count at cut-offs."""
        ages: Values = (cuts - times) / np.timedelta64(task.horizon)
        return np.asarray(0.5 ** (ages / self.half_life))

    def to_json(self) -> dict[str, Any]:
        """It as JSON values."""
        since = None if self.since is None else str(self.since)
        common = None if self.common is None else asdict(self.common)
        return {"half_life": self.half_life, "prior": self.prior, "since": since, "common": common}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Self:
        """What `to_json` wrote."""
        since = None if document["since"] is None else np.datetime64(document["since"], "us")
        common = document.get("common")  # older models have none
        return cls(document["half_life"], document["prior"], since, common and Line(**common))


def outcomes(
    task: NodeTask,
    examples: Examples,
    labelled: Examples,
    *,
    since: np.datetime64 | None = None,
    everybody: bool = False,
) -> Outcomes:
    """The outcomes that predictions look at.

    Of an example those of its entity that were known by its cut-off, the last ones, and if asked for the last of
    everybody; none up to `since`.
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
    found = Outcomes(example, rows[np.repeat(end - count, count) + back])
    return replace(found, **_last_of_everybody(examples.cuts, known, np.flatnonzero(good))) if everybody else found


def _last_of_everybody(cuts: Times, known: Times, rows: Numbers) -> dict[str, Numbers]:
    """What `Outcomes` says of everybody: of rows that no example looks at nothing."""
    rows = rows[np.argsort(known[rows], kind="stable")]
    end = np.searchsorted(known[rows], cuts, side="right")
    first = np.maximum(end - RECENT, 0)
    opened, closed = (np.bincount(each, minlength=len(rows) + 1) for each in (first, end))
    looked_at = np.cumsum(opened - closed)[:-1] > 0
    place = np.concatenate([[0], np.cumsum(looked_at)])
    return {"everybody": rows[looked_at], "first": place[first], "end": place[end]}


def can_be_corrected(task: NodeTask | LinkTask) -> TypeGuard[NodeTask]:
    """Whether errors of a task's predictions are single numbers that become known."""
    if not isinstance(task, NodeTask) or task.horizon is None or task.time_column is None:
        return False
    return task.task_type in ("binary_classification", "regression")


def choose_correction(task: NodeTask, held: Sequence[Held]) -> Correction | None:
    """What serves held-out predictions best, by what they miss on average over splits; None where nothing does.

    Args:
        task: what is predicted.
        held: validation splits, the latest first, each with its predictions, (N,), by a model that learnt from none of
            it.
    """
    values = task.task_type == "regression"
    looked_at = [outcomes(task, examples, examples, everybody=values) for examples, _ in held]
    if not any(len(each.rows) for each in looked_at):
        return None
    every = np.concatenate([predictions for _, predictions in held])
    scale = 1.0 if values else max(float((every * (1 - every)).mean()), _LEAST_SCALE)
    candidates: list[Correction | None] = [None]
    candidates += [Correction(each, strength * scale) for each in HALF_LIVES for strength in STRENGTHS]
    best = _best(task, held, looked_at, candidates)
    if values and (spread := float(every.std())) > 0:
        line = Line(float(every.mean()), spread)
        wider = replace(best or Correction(HALF_LIVES[-1], STRENGTHS[-1]), common=line)
        best = _best(task, held, looked_at, [best, wider])
    return best


def corrected_splits(
    task: NodeTask,
    held: Sequence[Held],
    correction: Correction | None,
    looked_at: Sequence[Outcomes] | None = None,
) -> list[Values]:
    """The predictions of held-out splits, (N,) each, corrected as their labels become known.

    Args:
        task: what is predicted.
        held: the splits, each with its predictions, (N,).
        correction: how they are corrected; None: not at all.
        looked_at: the outcomes of each split, where they are known already.
    """
    if correction is None:
        return [predictions for _, predictions in held]
    if looked_at is None:
        looked_at = [correction.outcomes(task, examples, examples) for examples, _ in held]
    return [
        correction.corrected(task, examples, predictions, examples, predictions, each)
        for (examples, predictions), each in zip(held, looked_at, strict=True)
    ]


def _best(
    task: NodeTask, held: Sequence[Held], looked_at: Sequence[Outcomes], candidates: Sequence[Correction | None]
) -> Correction | None:
    """The candidate with the least loss: of probabilities the log loss, of values by the task's metric.

    A metric of the order of predictions, such as AUROC, says little by a few hundred examples, and the variance of
    effects is what the likelihood estimates.
    """
    losses = []
    for candidate in candidates:
        found = corrected_splits(task, held, candidate, looked_at)
        each = [_loss(task, examples, predictions) for (examples, _), predictions in zip(held, found, strict=True)]
        losses.append(recent_mean(each))
    return candidates[int(np.argmin(np.nan_to_num(losses, nan=np.inf)))]


def _loss(task: NodeTask, examples: Examples, predictions: Values) -> float:
    if task.task_type == "regression":
        value = value_of(task, task.evaluation_metric, examples, predictions, ())
        return -value if task.maximise else value
    from sklearn.metrics import log_loss

    assert examples.labels is not None
    true = label_values(task, examples.labels, ())
    return float(log_loss(true, np.clip(predictions, _SURE, 1 - _SURE), labels=[0, 1]))
