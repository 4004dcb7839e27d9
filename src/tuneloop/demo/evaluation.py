"""How well a model searches the shop: held-out queries against the whole catalogue, judged by the known relevance."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tuneloop.demo.searches import HeldOutQuery
from tuneloop.search import metrics

Floats = npt.NDArray[np.floating]

BACKGROUND = 256  # articles that say what a similarity of this model means


@dataclass(frozen=True)
class Scores:
    """What a model comes to, the metrics per query, each of shape (queries,).

    `ndcg` has gain 2**grade − 1 and counts the first 10, `mrr` is one over the rank of the first article that has all
    that was asked for, `order` the catalogue in the model's order, shape (queries, articles).
    """

    ndcg: Floats
    mrr: Floats
    order: npt.NDArray[np.int64]


class Evaluation:
    """The held-out queries with the grades of all articles, shape (queries, articles)."""

    def __init__(self, queries: tuple[HeldOutQuery, ...], object_ids: tuple[str, ...], *, seed: int = 0) -> None:
        column = {object_id: index for index, object_id in enumerate(object_ids)}
        self.queries = queries
        self.grades = np.zeros((len(queries), len(object_ids)), np.int8)
        for row, query in enumerate(queries):
            for object_id, grade in query.relevance.items():
                self.grades[row, column[object_id]] = grade
        self._starts = np.arange(len(queries) + 1) * len(object_ids)
        number = min(BACKGROUND, len(object_ids))
        self._background = np.random.default_rng(seed).choice(len(object_ids), number, replace=False)

    def scores(self, similarity: Floats) -> Scores:
        """The metrics of a model whose similarity of each query to each article is given, (queries, articles)."""
        flat = similarity.ravel()
        gains = (2.0**self.grades - 1).ravel()
        found = (self.grades == 2).astype(float).ravel()
        return Scores(
            ndcg=metrics.ndcg(flat, gains, self._starts),
            mrr=metrics.reciprocal_rank(flat, found, self._starts),
            order=np.argsort(-similarity, axis=1, kind="stable"),
        )

    def distance_shift(self, after: Floats, before: Floats) -> Floats:
        """How much nearer the articles that have all that was asked for came, against the background, (queries,).

        `after` and `before` are similarities of shape (queries, articles).
        """
        relevant = (self.grades == 2).ravel()
        return metrics.clicked_shift(self._against(after), self._against(before), relevant, self._starts)

    def _against(self, similarity: Floats) -> Floats:
        background = similarity[:, self._background].mean(axis=1, keepdims=True)
        return np.asarray(similarity - background).ravel()
