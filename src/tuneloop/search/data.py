"""Training data: usable sessions, split, over one table of distinct texts, and batches of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from tuneloop.search.metrics import click_weights
from tuneloop.search.propensity import Propensity, estimate
from tuneloop.search.sessions import Log, Sessions
from tuneloop.search.split import is_held_out

# Sessions with a clicked item in common that stand together in a batch: the item is encoded once for all of them, and
# what the others clicked among similar items are hard negatives. More would make the batch too uniform.
TOGETHER = 4


@dataclass(frozen=True)
class TrainingData:
    """What training reads.

    Attributes:
        texts: each distinct text once: first the queries, then the items.
        queries: how many of the texts are queries.
        train: sessions to learn from: each irrelevant, or with a clicked result.
        earlier: such sessions of earlier batches, see `with_replay`.
        held_out: such sessions with at least two results, to judge models with; those of earlier batches stand last,
            and show what is kept of what was learnt.
        judged: the number of the batch's own held-out sessions with a click, from which ranking metrics are computed.
        counts: what was found and what was left out, by name.
        propensity: the chance that somebody looked at a position.
    """

    texts: list[str]
    queries: int
    train: Sessions
    earlier: Sessions
    held_out: Sessions
    judged: int
    counts: Mapping[str, int | float | str]
    propensity: Propensity

    @property
    def trained_on(self) -> NDArray[np.int64]:
        """The rows of the texts that training may read, ascending."""
        both = self.train, self.earlier
        return np.unique(np.concatenate([rows for each in both for rows in (each.query, each.result)]))

    def with_replay(self, share: float, *, seed: int) -> Sessions:
        """The training sessions, and after them a share of the earlier ones, drawn by the seed.

        Training on some of what was learnt before is the plainest guard against forgetting it (Robins, Catastrophic
        Forgetting, Rehearsal and Pseudorehearsal, 1995).
        """
        count = round(share * len(self.earlier))
        if not count:
            return self.train
        chosen = np.random.default_rng(seed).choice(len(self.earlier), count, replace=False)
        return self.train.join(self.earlier.select(np.sort(chosen)))


def make_training_data(log: Log, *, propensity_exponent: float | None = None, seed: int = 0) -> TrainingData:
    """Leave out what nothing can be learnt from, count it, and split the rest by query.

    Sessions of earlier batches are split alike; they say nothing of the propensity.

    Args:
        log: what people did.
        propensity_exponent: see `Propensity`; without it, it is estimated from the sessions that are not held out.
        seed: of that estimate.
    """
    sessions, earlier = (each.keep(each.result >= 0) for each in (log.sessions, log.earlier))
    held_out_query = np.array([is_held_out(query) for query in log.queries], dtype=bool)
    on_test = held_out_query[sessions.query]
    train, held_out = _split(sessions, on_test)
    train_earlier, held_out_earlier = _split(earlier, held_out_query[earlier.query])
    if propensity_exponent is None:
        shown = log.sessions.select(~on_test)
        propensity = estimate(shown, log.score[~on_test[log.sessions.session]], seed=seed)
    else:
        propensity = Propensity(propensity_exponent, "set")
    counts: dict[str, int | float | str] = {
        "sessions": len(sessions),
        "sessions_irrelevant": int(sessions.irrelevant.sum()),
        "sessions_without_click": int((~sessions.irrelevant & (log.sessions.count(log.sessions.clicked) == 0)).sum()),
        "sessions_without_known_items": int((np.diff(sessions.starts) == 0).sum()),
        "sessions_with_one_result": int((np.diff(log.sessions.starts) == 1).sum()),
        "sessions_train": len(train),
        "sessions_held_out": len(held_out),
        "sessions_earlier": len(train_earlier),
        "sessions_held_out_earlier": len(held_out_earlier),
        "results": len(log.sessions.result),
        "results_unknown": int((log.sessions.result < 0).sum()),
        "clicks": int(sessions.clicked.sum()),
        "queries": len(np.unique(sessions.query)),
        "items": len(np.unique(sessions.result)),
    }
    parts = train, train_earlier, held_out.join(held_out_earlier)
    return _renumber(log, parts, int((~held_out.irrelevant).sum()), counts | propensity.counts, propensity)


def _split(sessions: Sessions, on_test: NDArray[np.bool_]) -> tuple[Sessions, Sessions]:
    """The usable sessions to train on, and those to judge with: of one result there is only one order."""
    usable = _usable(sessions)
    return sessions.select(usable & ~on_test), sessions.select(usable & on_test & (np.diff(sessions.starts) > 1))


def _usable(sessions: Sessions) -> NDArray[np.bool_]:
    """Which sessions say something of a known item, (S,)."""
    return (np.diff(sessions.starts) > 0) & (sessions.irrelevant | (sessions.count(sessions.clicked) > 0))


def _renumber(
    log: Log,
    parts: tuple[Sessions, Sessions, Sessions],
    judged: int,
    counts: Mapping[str, int | float | str],
    propensity: Propensity,
) -> TrainingData:
    """Number the texts anew, so that only those in use are kept: queries first, then items."""
    query_rows = np.unique(np.concatenate([part.query for part in parts]))
    item_rows = np.unique(np.concatenate([part.result for part in parts]))

    def renumbered(part: Sessions) -> Sessions:
        return Sessions(
            np.searchsorted(query_rows, part.query),
            part.irrelevant,
            part.starts,
            np.searchsorted(item_rows, part.result) + len(query_rows),
            part.clicked,
            part.position,
        )

    texts = [log.queries[row] for row in query_rows] + [log.items[row] for row in item_rows]
    train, earlier, held_out = map(renumbered, parts)
    return TrainingData(texts, len(query_rows), train, earlier, held_out, judged, counts, propensity)


@dataclass(frozen=True)
class Batch:
    """Distinct texts of some sessions, and the pairs among them: indices into `queries` and `items`.

    Attributes:
        queries, items: rows of the distinct texts, (Q,) and (M,).
        click: (query, clicked item) pairs, (C, 2).
        click_weight: 1 over the number of clicks of the session, times what the click weighs, (C,) float32.
        pair: (query, clicked item, not-clicked item) triples of one session, (P, 3).
        pair_weight: 1 over the number of triples of the session, times what the click weighs, (P,) float32.
        away: (query, shown item) pairs of irrelevant sessions, (A, 2).
        away_weight: 1 over the number of results of the session, (A,) float32.
        known: whether an item was clicked for that query in any training session, (Q, M) bool.
        sessions: the number of sessions.
    """

    queries: NDArray[np.int64]
    items: NDArray[np.int64]
    click: NDArray[np.int64]
    click_weight: NDArray[np.float32]
    pair: NDArray[np.int64]
    pair_weight: NDArray[np.float32]
    away: NDArray[np.int64]
    away_weight: NDArray[np.float32]
    known: NDArray[np.bool_]
    sessions: int


class Sampler:
    """Draws batches of sessions, with a share of the not-clicked results of each.

    Args:
        sessions: what to draw from, with no result unknown.
        batch_size: sessions in a batch.
        negative_share: the share of a session's not-clicked results to use, between 0 and 1; of an irrelevant session
            likewise. A fraction of a result is used by chance, so that 0.5 results are one in every other session.
        irrelevant: whether to use irrelevant sessions.
        propensity_exponent: weigh clicks by `metrics.click_weights`, so that a session with clicks weighs 1 on
            average; 0 weighs all alike.
        seen_only: whether to use only those not-clicked results that `Sessions.seen` holds.
        negative_hardness: how much rather a not-clicked result is used that was shown above others: at position p by
            p to the power of minus this; 0 draws all alike.

    Attributes:
        sessions: what is drawn from.
        liked: whether in any of them an item was clicked for a query, by their rows, (N, N) bool.
    """

    def __init__(
        self,
        sessions: Sessions,
        *,
        batch_size: int,
        negative_share: float,
        irrelevant: bool = True,
        propensity_exponent: float = 0.0,
        seen_only: bool = False,
        negative_hardness: float = 0.0,
    ) -> None:
        sessions = sessions.keep(sessions.seen) if seen_only else sessions
        self.sessions = sessions if irrelevant else sessions.select(~sessions.irrelevant)
        self.batch_size = batch_size
        self.negative_share = negative_share
        self.propensity_exponent = propensity_exponent
        self.negative_hardness = negative_hardness
        clicked = self.sessions.clicked & ~self.sessions.irrelevant[self.sessions.session]
        self._mean_weight = self._mean_click_weight(clicked)
        self._topic = _topics(self.sessions, clicked)
        rows = int(max(self.sessions.query.max(initial=0), self.sessions.result.max(initial=0))) + 1
        pairs = self.sessions.query[self.sessions.session[clicked]], self.sessions.result[clicked]
        self.liked = csr_matrix((np.ones(len(pairs[0]), bool), pairs), (rows, rows))

    def __len__(self) -> int:
        """Batches in an epoch."""
        return -(-len(self.sessions) // self.batch_size)

    def epoch(self, rng: np.random.Generator, *, shuffle: bool = True) -> Iterator[Batch]:
        """Every session once, in random order unless told otherwise, a few that clicked the same item together."""
        count = len(self.sessions)
        order = self._shuffled(rng) if shuffle else np.arange(count)
        for start in range(0, count, self.batch_size):
            yield self.batch(order[start : start + self.batch_size], rng)

    def _shuffled(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """A random order in which up to `TOGETHER` sessions of one topic follow one another."""
        order = np.lexsort((rng.random(len(self.sessions)), self._topic))
        topic = self._topic[order]
        first = np.concatenate([[True], topic[1:] != topic[:-1]])[: len(topic)]
        starts = np.flatnonzero(first)
        within = np.arange(len(order)) - np.repeat(starts, np.diff(np.append(starts, len(order))))
        group = np.cumsum(within % TOGETHER == 0) - 1
        return order[np.argsort(rng.permutation(group.max(initial=-1) + 1)[group], kind="stable")]

    def batch(self, chosen: NDArray[np.int64], rng: np.random.Generator) -> Batch:
        """The batch of these sessions."""
        part = self._downsample(self.sessions.select(chosen), rng)
        queries, query = np.unique(part.query, return_inverse=True)
        items, item = np.unique(part.result, return_inverse=True)
        session = part.session
        away = part.irrelevant[session]
        click = part.clicked & ~away
        triples = _triples(part, click)
        weight = self._click_weight(part)
        return Batch(
            queries,
            items,
            np.stack([query[session[click]], item[click]], axis=1),
            _share(session[click]) * weight[click],
            np.stack([query[session[triples[:, 0]]], item[triples[:, 0]], item[triples[:, 1]]], axis=1),
            _share(session[triples[:, 0]]) * weight[triples[:, 0]],
            np.stack([query[session[away]], item[away]], axis=1),
            _share(session[away]),
            self.liked[queries][:, items].toarray(),
            len(part),
        )

    def _click_weight(self, part: Sessions) -> NDArray[np.float32]:
        """What a click on each result weighs, (R,)."""
        weight = click_weights(part.position, exponent=self.propensity_exponent) / self._mean_weight
        return weight.astype(np.float32)

    def _mean_click_weight(self, clicked: NDArray[np.bool_]) -> float:
        """What a session with clicks weighs on average, by the mean of its clicks."""
        session = self.sessions.session[clicked]
        weight = click_weights(self.sessions.position[clicked], exponent=self.propensity_exponent)
        sessions = len(np.unique(session))
        return float((weight * _share(session)).sum() / sessions) if sessions else 1.0

    def _downsample(self, part: Sessions, rng: np.random.Generator) -> Sessions:
        """Keep all clicked results of clicked sessions and a random share of the others."""
        session = part.session
        optional = ~part.clicked | part.irrelevant[session]
        wanted = np.floor(self.negative_share * part.count(optional) + rng.random(len(part)))
        # In each session the optional ones stand first. The smallest of such lots are drawn by weight, without
        # replacement (Efraimidis and Spirakis, Weighted Random Sampling with a Reservoir, 2006).
        lot = rng.exponential(size=len(session)) * np.maximum(part.position, 1) ** self.negative_hardness
        order = np.lexsort((lot, ~optional, session))
        place = np.empty(len(session), np.int64)
        place[order] = np.arange(len(session)) - np.repeat(part.starts[:-1], np.diff(part.starts))
        return part.keep(~optional | (place < wanted[session]))


def _topics(sessions: Sessions, clicked: NDArray[np.bool_]) -> NDArray[np.int64]:
    """For each session the one of its clicked items that was clicked most often, (S,); its own number without one."""
    session, item = sessions.session[clicked], sessions.result[clicked]
    order = np.argsort(np.bincount(item)[item] if len(item) else item, kind="stable")
    topic = -1 - np.arange(len(sessions))
    topic[session[order]] = item[order]  # the last assignment counts
    return topic


def _triples(part: Sessions, click: NDArray[np.bool_]) -> NDArray[np.int64]:
    """All (clicked result, not-clicked result) pairs within a session, (P, 2) indices of results."""
    others = ~click & ~part.irrelevant[part.session]
    pairs = [
        np.stack(np.meshgrid(start + np.flatnonzero(click[start:end]), start + np.flatnonzero(others[start:end])), -1)
        for start, end in zip(part.starts[:-1], part.starts[1:], strict=True)
    ]
    return np.concatenate([each.reshape(-1, 2) for each in pairs]) if pairs else np.zeros((0, 2), np.int64)


def _share(session: NDArray[np.int64]) -> NDArray[np.float32]:
    """For each element 1 over how many there are of its session."""
    return (1 / np.bincount(session)[session] if len(session) else np.zeros(0)).astype(np.float32)
