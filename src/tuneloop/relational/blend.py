"""Several models' predictions as one: weighted means, and for links the sum of their weighted reciprocal ranks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tuneloop.relational.learner import Links, Predictions

# Cormack, Clarke and Büttcher, Reciprocal Rank Fusion outperforms Condorcet and individual rank learning methods
# (SIGIR 2009): what the paper adds to each rank.
_RANK_OFFSET = 60.0


def combine(predictions: Sequence[Predictions], weights: Sequence[float]) -> Predictions:
    """One prediction of several of the same examples.

    Args:
        predictions: of each model.
        weights: how much each counts, of which at least one is above zero.
    """
    counting = [(each, weight) for each, weight in zip(predictions, weights, strict=True) if weight > 0]
    predictions, weights = [each for each, _ in counting], [weight for _, weight in counting]
    if len(predictions) == 1:
        return predictions[0]
    links = [each for each in predictions if isinstance(each, Links)]
    if links:
        return _fuse(links, weights)
    shares = np.asarray(weights, float) / np.sum(weights)
    return np.asarray(sum(share * np.asarray(each) for share, each in zip(shares, predictions, strict=True)))


def _fuse(predictions: Sequence[Links], weights: Sequence[float]) -> Links:
    import pyarrow as pa
    import pyarrow.compute as pc

    count = len(predictions[0].scores)
    width = max(each.scores.shape[1] for each in predictions)
    keys = pa.chunked_array([each.keys for each in predictions]).combine_chunks()
    known = pc.unique(keys.drop_null())
    rows, ranks, shares = [], [], []
    for each, weight in zip(predictions, weights, strict=True):
        row, rank = np.divmod(np.arange(each.scores.size), each.scores.shape[1])
        rows.append(row)
        ranks.append(rank)
        shares.append(np.full(each.scores.size, float(weight)))
    there = pc.is_valid(keys).to_numpy(zero_copy_only=False)
    codes = pc.index_in(keys.drop_null(), known).to_numpy().astype(np.int64)
    row, rank, share = (np.concatenate(each)[there] for each in (rows, ranks, shares))
    pairs, place = np.unique(row * max(len(known), 1) + codes, return_inverse=True)
    scores = np.zeros(len(pairs))
    np.add.at(scores, place, share / (_RANK_OFFSET + 1 + rank))
    return top_links(pairs // max(len(known), 1), pairs % max(len(known), 1), scores, known, count=count, width=width)


def top_links(
    rows: NDArray[np.int64],
    codes: NDArray[np.int64],
    scores: NDArray[np.float64],
    keys: object,
    *,
    count: int,
    width: int,
) -> Links:
    """The best of scored pairs for each example.

    Args:
        rows: the example of each pair, (P,).
        codes: its target, as a place in `keys`, (P,).
        scores: how likely it is, (P,).
        keys: the targets' keys, an Arrow array.
        count: how many examples there are.
        width: how many links each gets, at most.
    """
    import pyarrow as pa

    order = np.lexsort((codes, -scores, rows))
    rows, codes, scores = rows[order], codes[order], scores[order]
    rank = np.arange(len(rows)) - np.searchsorted(rows, rows)
    kept = rank < width
    places = rows[kept] * width + rank[kept]
    chosen = np.zeros(count * width, np.int64)
    empty = np.ones(count * width, bool)
    found = np.full(count * width, -np.inf)
    chosen[places], empty[places], found[places] = codes[kept], False, scores[kept]
    assert isinstance(keys, pa.Array)
    return Links(keys.take(pa.array(chosen, mask=empty)), found.reshape(count, width))
