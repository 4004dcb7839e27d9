"""What the earlier links of examples say of what they like: values of the targets' columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from tuneloop.relational.histories import Histories
from tuneloop.relational.link_rows import Floats, Ints, Rows
from tuneloop.relational.past import FOLLOWS, Matrix, Past, Shape

_PRIOR = 1.5  # links of everybody that an example's own are mixed with


@dataclass(frozen=True)
class ValueTaste:
    """How examples stand to the values of a category column, each (N, V).

    Attributes:
        short, long: share of the value among what they were linked to, relative to that among all; logarithm.
        next: how much likelier the value is after their last links; logarithm.
        age: days since they were last linked to it; NaN for never.
    """

    short: Matrix
    long: Matrix
    next: Matrix
    age: Matrix


@dataclass(frozen=True)
class NumberTaste:
    """The numbers of what examples were linked to: mean and deviation, (N,)."""

    mean: Floats
    deviation: Floats


def value_tastes(histories: Histories, past: Past, targets: Rows, shape: Shape) -> dict[str, ValueTaste]:
    """Tastes by category column."""
    short = histories.weights(shape.short, len(targets))
    long = histories.weights(shape.long, len(targets))
    last = _last_links(histories, len(targets))
    found = {}
    for name, (codes, values) in targets.categories.items():
        prior = past.shares[name][-1]
        steps = _by_value(last, codes, len(values))
        found[name] = ValueTaste(
            short=_lifts(_by_value(short, codes, len(values)), prior),
            long=_lifts(_by_value(long, codes, len(values)), prior),
            next=np.asarray(steps @ past.next[name], np.float32),
            age=_ages(histories, codes, len(values)),
        )
    return found


def number_tastes(histories: Histories, values: dict[str, Floats], half_life: float) -> dict[str, NumberTaste]:
    """Tastes by name of numbers, each (T,)."""
    weights = np.exp2(-histories.ages / half_life)
    found = {}
    for name, column in values.items():
        value = column[histories.targets]
        known = np.isfinite(value)
        at, value, weight = histories.at[known], value[known], weights[known]
        total = np.bincount(at, weight, histories.count)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = np.bincount(at, weight * value, histories.count) / total
            square = np.bincount(at, weight * (value - mean[at]) ** 2, histories.count) / total
        found[name] = NumberTaste(mean, np.sqrt(square))
    return found


def _by_value(weights: Any, codes: Ints, size: int) -> Matrix:
    """Weights of examples and targets, added up by the targets' values, (N, V)."""
    known = np.flatnonzero(codes >= 0)
    ones = np.ones(len(known), np.float32)
    values = sparse.csr_matrix((ones, (known, codes[known])), (len(codes), size))
    return np.asarray((weights @ values).toarray(), np.float32)


def _lifts(found: Matrix, prior: Matrix) -> Matrix:
    mixed = (found + _PRIOR * prior) / (found.sum(1, keepdims=True) + _PRIOR)
    return np.asarray(np.log(mixed / prior), np.float32)


def _last_links(histories: Histories, targets: int) -> Any:
    """The last links of each example, alike, summing to one, (N, T) CSR."""
    places = histories.places()
    some = places < FOLLOWS
    at = histories.at[some]
    weights = (1 / np.maximum(np.bincount(at, minlength=histories.count), 1))[at].astype(np.float32)
    return sparse.csr_matrix((weights, (at, histories.targets[some])), (histories.count, targets))


def _ages(histories: Histories, codes: Ints, size: int) -> Matrix:
    found = np.full(histories.count * size, np.inf, np.float32)
    values = codes[histories.targets]
    known = values >= 0
    np.minimum.at(found, histories.at[known] * size + values[known], histories.ages[known].astype(np.float32))
    found[np.isinf(found)] = np.nan
    return found.reshape(histories.count, size)
