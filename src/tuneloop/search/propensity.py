"""Position bias: the chance that somebody looks at a position, from the click log alone.

Results of equal relevance that stood at different positions are compared (intervention harvesting: Agarwal et al.,
Estimating Position Bias without Intrusive Interventions, WSDM 2019). There are two kinds of such pairs:

- the same item for the same query, in sessions that showed it at different positions;
- neighbours in one ranking whose scores are nearly equal, so that little decided which of them came first (regression
  discontinuity: Narayanan and Kalyanam, Position Effects in Search Advertising and Their Moderators, Marketing Science
  2015).

If somebody looks at position p with the chance 1 / p^η and then clicks by relevance, the first of such a pair has a
share of σ(η (log p₂ − log p₁) + β (s₁ − s₂)) in their clicks: s are the scores of neighbours, and β, fitted along with
η, is how fast relevance falls with the score. Only numpy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tuneloop.search.sessions import Sessions

DEFAULT_EXPONENT = 0.5
MAX_EXPONENT = 5.0
# An estimate less certain than this is not used, nor one from fewer queries: the standard error itself is then a guess.
MAX_STANDARD_ERROR = 0.1
MIN_QUERIES = 20
# Pairs are up to so many places apart, in a ranking or among the sessions that showed an item.
REACH = 4
# Scores are nearly equal below this times their mean difference at that place; the nearer, the more a pair weighs.
BANDWIDTH = 2.0
# Where scores differ by much the same in every ranking, they follow from the position and say nothing else.
MIN_VARIATION = 0.3
# Where a larger share of neighbours than this have equal scores, scores are too coarse: those that differ are not near
# enough, and what decided between the equal ones is not known.
MAX_TIED = 0.25

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
Source = Literal["estimated", "default", "set"]


@dataclass(frozen=True)
class Propensity:
    """The chance that somebody looks at position p (the first is 1), as 1 / p ** exponent.

    Attributes:
        source: whether the exponent was estimated, given by the user, or neither.
        standard_error: of an estimated exponent.
    """

    exponent: float = DEFAULT_EXPONENT
    source: Source = "default"
    standard_error: float | None = None

    @property
    def counts(self) -> dict[str, float | str]:
        """What to tell people about it, by name."""
        found: dict[str, float | str] = {"propensity_exponent": self.exponent, "propensity_source": self.source}
        return found if self.standard_error is None else found | {"propensity_standard_error": self.standard_error}


@dataclass(frozen=True)
class _Pairs:
    """Results of equal relevance, one of them clicked: P pairs of indices of results, (P,) each.

    `gap` is the difference of their scores, in units of the mean one, and `weight` what a pair counts.
    """

    first: Indices
    second: Indices
    gap: Floats
    weight: Floats


def estimate(sessions: Sessions, score: Floats, *, seed: int = 0) -> Propensity:
    """Estimate the exponent, or fall back to the default where the log does not tell.

    Args:
        sessions: all sessions, also those without a click, with all results that they showed.
        score: the score by which each result was ranked, NaN where it is not known, (R,).
        seed: of which sessions with the same query are compared.
    """
    same, near = _same_item(sessions, np.random.default_rng(seed)), _near_scores(sessions, score)
    pairs = _Pairs(
        np.concatenate([same.first, near.first]),
        np.concatenate([same.second, near.second]),
        np.concatenate([same.gap, near.gap]),
        np.concatenate([same.weight, near.weight]),
    )
    query = np.unique(sessions.query[sessions.session[pairs.first]], return_inverse=True)[1]
    if query.max(initial=-1) + 1 < MIN_QUERIES:
        return Propensity()
    exponent, error = _fit(pairs, sessions, query)
    if not error <= MAX_STANDARD_ERROR:
        return Propensity()
    return Propensity(round(min(max(exponent, 0.0), MAX_EXPONENT), 4), "estimated", round(error, 4))


def _same_item(sessions: Sessions, rng: np.random.Generator) -> _Pairs:
    """Each showing of an item to a query beside a few other ones, chosen at random, at other positions."""
    known = np.flatnonzero(sessions.result >= 0)
    session = sessions.session
    key = sessions.query[session[known]] * (sessions.result.max(initial=0) + 1) + sessions.result[known]
    order = np.lexsort((rng.random(len(key)), key))
    row, key = known[order], key[order]
    found = []
    for apart in range(1, REACH + 1):
        first, second = row[:-apart], row[apart:]
        kept = (key[apart:] == key[:-apart]) & (sessions.clicked[first] | sessions.clicked[second])
        first, second = first[kept], second[kept]
        apt = (sessions.position[first] != sessions.position[second]) & (session[first] != session[second])
        found.append(np.stack([first, second])[:, apt])
    pairs = np.concatenate(found, axis=1)
    return _Pairs(pairs[0], pairs[1], np.zeros(pairs.shape[1]), np.ones(pairs.shape[1]))


def _near_scores(sessions: Sessions, score: Floats) -> _Pairs:
    """Results up to `REACH` places apart in a ranking by score, the nearer their scores the heavier."""
    session = sessions.session
    ranked, step, coarse = _rankings(sessions, score)
    found, gaps, total = [], 0, 0.0
    for apart in range(1, REACH + 1):
        first = np.flatnonzero((session[apart:] == session[:-apart]) & ranked[session[apart:]])
        second = first + apart
        gap = np.abs(score[first] - score[second])
        usable = np.isfinite(gap) & (gap > 0) & ~coarse[sessions.position[first]]
        first, second, gap = first[usable], second[usable], gap[usable]
        place = sessions.position[first]
        variation = np.minimum(_variation(gap, place), _variation(gap / step[session[first]], place))
        weight = np.maximum(0, 1 - gap / (BANDWIDTH * _mean(gap, place))) * (variation >= MIN_VARIATION)
        gaps, total = gaps + len(gap), total + gap.sum()
        kept = (weight > 0) & (sessions.clicked[first] | sessions.clicked[second])
        found.append((first[kept], second[kept], gap[kept], weight[kept]))
    first, second, gap, weight = (np.concatenate(column) for column in zip(*found, strict=True))
    return _Pairs(first, second, gap / (total / gaps) if gaps else gap, weight)


def _rankings(sessions: Sessions, score: Floats) -> tuple[NDArray[np.bool_], Floats, NDArray[np.bool_]]:
    """Of each session whether its results are in the order of their scores, (S,), and the mean step between them, (S,);
    of each position whether scores are too coarse there, (largest position + 1,).

    A distance ranks as well as a similarity, from the smallest up.
    """
    session = sessions.session
    above = np.flatnonzero(session[1:] == session[:-1])
    step, count = score[above + 1] - score[above], len(sessions)
    falls = np.bincount(session[above][step < 0], minlength=count) > 0
    rises = np.bincount(session[above][step > 0], minlength=count) > 0
    ranked = falls != rises
    size = np.bincount(session[above], np.nan_to_num(np.abs(step)), minlength=count)
    counted = ranked[session[above]]
    place, tied, places = (
        sessions.position[above][counted],
        step[counted] == 0,
        int(sessions.position.max(initial=0)) + 1,
    )
    coarse = np.bincount(place[tied], minlength=places) > MAX_TIED * np.bincount(place, minlength=places)
    return ranked, size / np.maximum(np.diff(sessions.starts) - 1, 1), coarse


def _mean(values: Floats, group: Indices) -> Floats:
    """For each element the mean of its group."""
    found: Floats = (np.bincount(group, values) / np.maximum(np.bincount(group), 1))[group]
    return found


def _variation(values: Floats, group: Indices) -> Floats:
    """For each element the standard deviation of its group over the mean of its group."""
    mean = _mean(values, group)
    found: Floats = np.sqrt(_mean((values - mean) ** 2, group)) / mean
    return found


def _fit(pairs: _Pairs, sessions: Sessions, query: Indices) -> tuple[float, float]:
    """The exponent that explains best which of each pair was clicked, and its standard error.

    A logistic regression by Newton's method. Pairs of one query share sessions and items, so the error allows for any
    dependence among them (the sandwich estimator, clustered by query). A pair with two clicks counts as one of each.
    """
    clicks = sessions.clicked[pairs.first].astype(float) + sessions.clicked[pairs.second]
    share, weight = sessions.clicked[pairs.first] / clicks, pairs.weight * clicks
    position = np.log(sessions.position.astype(float))
    x = np.stack([position[pairs.second] - position[pairs.first], pairs.gap], axis=1)  # (P, 2)
    ridge = 1e-3 * np.eye(2)  # without neighbours there is no slope to be found
    found = np.zeros(2)
    for _ in range(50):
        expected = 1 / (1 + np.exp(-np.clip(x @ found, -30, 30)))
        curvature = (x * (weight * expected * (1 - expected))[:, None]).T @ x + ridge
        step = np.linalg.solve(curvature, x.T @ (weight * (share - expected)) - ridge @ found)
        found += step / max(1.0, np.abs(step).max())
        if np.abs(step).max() < 1e-8:
            break
    residual = weight * (share - expected)
    pull = np.stack([np.bincount(query, column * residual) for column in x.T], axis=1)  # (queries, 2)
    inverse = np.linalg.inv(curvature)
    return float(found[0]), float(np.sqrt((inverse @ pull.T @ pull @ inverse)[0, 0]))
