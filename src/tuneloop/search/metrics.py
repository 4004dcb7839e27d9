"""How well a model ranks what people clicked, and how far fine-tuning moved it. Only numpy.

Lists of results are ragged: `starts` (S + 1,) says where each session's results begin, as in `Sessions`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Starts = NDArray[np.int64]
MAX_WEIGHT = 10.0


def click_weights(position: NDArray[np.int64], *, exponent: float = 0.5, max_weight: float = MAX_WEIGHT) -> Floats:
    """One over the propensity of each shown position (the first is 1), clipped.

    The propensity, the chance that somebody looked there, is taken as 1 / position ** exponent (Joachims, Swaminathan
    and Schnabel, Unbiased Learning-to-Rank with Biased Feedback, WSDM 2017, section 6); see also `propensity`.
    """
    weights: Floats = np.minimum(np.asarray(position, np.float64) ** exponent, max_weight)
    return weights


def ndcg(scores: Floats, gains: Floats, starts: Starts, *, k: int = 10) -> Floats:
    """Normalised discounted cumulative gain of each session ranked by score, (S,), between 0 and 1.

    Discount 1 / log2(1 + rank); of equal scores the result shown first ranks first. NaN for sessions without a gain.
    """
    session, rank = _ranked(scores, starts)
    ideal_rank = _ranked(gains, starts)[1]
    sessions = len(starts) - 1
    found = _sum(gains * _discount(rank, k), session, sessions)
    ideal = _sum(gains * _discount(ideal_rank, k), session, sessions)
    return _divide(found, ideal)


def reciprocal_rank(scores: Floats, gains: Floats, starts: Starts) -> Floats:
    """One over the rank of the first result with a gain, (S,). NaN for sessions without a gain."""
    session, rank = _ranked(scores, starts)
    best = np.full(len(starts) - 1, np.inf)
    relevant = gains > 0
    np.minimum.at(best, session[relevant], rank[relevant])
    return np.where(np.isinf(best), np.nan, 1 / best)


def recall(scores: Floats, gains: Floats, starts: Starts, *, k: int = 10) -> Floats:
    """The share of a session's gain that lies in the first k, (S,). NaN for sessions without a gain."""
    session, rank = _ranked(scores, starts)
    sessions = len(starts) - 1
    return _divide(_sum(gains * (rank <= k), session, sessions), _sum(gains, session, sessions))


def clicked_shift(after: Floats, before: Floats, clicked: NDArray[np.bool_], starts: Starts) -> Floats:
    """How much nearer the clicked results came: the mean of after − before over them, (S,). NaN without a click.

    `after` and `before` are similarities, (R,): raw, or less the session's background for the distance shift.
    """
    return _mean(after - before, clicked, starts)


def shown_shift(after: Floats, before: Floats, starts: Starts) -> Floats:
    """How much further away all shown results went: the mean of before − after, (S,). NaN without results."""
    return _mean(before - after, np.ones(len(after), bool), starts)


def _session(starts: Starts) -> NDArray[np.int64]:
    return np.repeat(np.arange(len(starts) - 1), np.diff(starts))


def _ranked(values: Floats, starts: Starts) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The session and the rank within it (from 1, highest value first, stable) of each result."""
    session = _session(starts)
    order = np.lexsort((-np.asarray(values, np.float64), session))
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order)) - np.asarray(starts)[session] + 1
    return session, rank


def _discount(rank: NDArray[np.int64], k: int) -> Floats:
    discount: Floats = np.where(rank <= k, 1 / np.log2(1 + rank), 0.0)
    return discount


def _sum(values: Floats, session: NDArray[np.int64], sessions: int) -> Floats:
    return np.bincount(session, weights=values, minlength=sessions).astype(np.float64)


def _divide(above: Floats, below: Floats) -> Floats:
    result: Floats = np.divide(above, below, out=np.full(len(above), np.nan), where=below > 0)
    return result


def _mean(values: Floats, mask: NDArray[np.bool_], starts: Starts) -> Floats:
    session, sessions = _session(starts)[mask], len(starts) - 1
    return _divide(_sum(values[mask], session, sessions), np.bincount(session, minlength=sessions).astype(np.float64))
