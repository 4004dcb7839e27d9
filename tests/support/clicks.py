"""A made-up click log with a known position bias."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tuneloop.search.sessions import Sessions

CANDIDATES = 40


def simulate(
    exponent: float,
    *,
    seed: int = 0,
    sessions: int = 6000,
    queries: int | None = None,
    reranked: bool = True,
    relevance: str = "smooth",
    shown: int = 12,
) -> tuple[Sessions, NDArray[np.float64]]:
    """Sessions and the scores that ranked their results.

    Rankings are by a noisy score, so that what stands high is more relevant. The chance of a click is the relevance
    over position ** exponent.

    Args:
        exponent: of the position bias.
        queries: distinct queries, each with its own items; without it all queries differ.
        reranked: whether the noise of a score differs in each session of a query.
        relevance: `smooth`, any value; or `few`, where a query has one right item and three that are nearly right.
        shown: results of a session, of more candidates.
    """
    chance = np.random.default_rng(seed)
    rows = queries or sessions
    if relevance == "smooth":
        score = chance.normal(0, 1, (rows, CANDIDATES)) + chance.normal(0, 0.7, (rows, 1))
        click = 1 / (1 + np.exp(2 - 1.5 * score))
    else:
        grade = np.array([2, 1, 1, 1] + [0] * (CANDIDATES - 4))
        score = 1.2 * grade * chance.uniform(0.3, 1.5, (rows, 1)) + chance.normal(0, 0.5, (rows, CANDIDATES))
        click = np.tile(np.array([0.03, 0.25, 0.85])[grade], (rows, 1))
    query = np.arange(sessions) if queries is None else chance.integers(0, rows, sessions)
    noise = chance.normal(0, 1, (sessions if reranked else rows, CANDIDATES))
    score = score[query] + (noise if reranked else noise[query])
    order = np.argsort(-score, axis=1)[:, :shown]
    position = np.tile(np.arange(1, shown + 1), (sessions, 1))
    clicked = chance.random(order.shape) < np.take_along_axis(click[query], order, 1) / position ** float(exponent)
    return (
        Sessions(
            query,
            np.zeros(sessions, bool),
            np.arange(sessions + 1) * shown,
            (query[:, None] * CANDIDATES + order).ravel(),
            clicked.ravel(),
            position.ravel(),
        ),
        np.take_along_axis(score, order, 1).ravel(),
    )
