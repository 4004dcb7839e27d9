"""What a model is worth: metrics of held-out sessions, and of a sample of the training sessions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from tuneloop.search import metrics
from tuneloop.search.data import Sampler, TrainingData
from tuneloop.search.encoder import Check, Encoder
from tuneloop.search.losses import Loss
from tuneloop.search.sessions import Sessions

Floats = NDArray[np.floating]


class Evaluator:
    """Measures encoders against the start model, always on the same sessions and background items.

    Args:
        data: where the sessions come from.
        start: the start model, which is measured at once: `baseline` holds its metrics.
        background: up to so many items that similarities are read against.
        train_sample: up to so many training sessions that the `train_` metrics are computed on.
        seed: of both samples.
        folder: where embeddings lie while they are measured; without one, in memory.
        check: called between forward passes; may raise.

    Attributes:
        sessions, gains: by split, the sessions and the gain of each of their results, (R,).
        before, latest: by split, what the start model and the model measured last find: the similarity of each result
            to its query, (R,), and the query's background, (R,).
    """

    def __init__(
        self,
        data: TrainingData,
        start: Encoder,
        *,
        background: int = 256,
        train_sample: int = 500,
        seed: int = 0,
        folder: Path | None = None,
        check: Check = lambda: None,
    ) -> None:
        rng = np.random.default_rng(seed)
        items = np.arange(data.queries, len(data.texts))
        self.background = np.sort(rng.choice(items, min(background, len(items)), replace=False))
        sample = np.sort(rng.choice(len(data.train), min(train_sample, len(data.train)), replace=False))
        self.sessions = {"train": data.train.select(sample), "test": data.held_out}
        self.gains = {
            split: each.clicked * metrics.click_weights(each.position, exponent=data.propensity.exponent)
            for split, each in self.sessions.items()
        }
        used = [self.background]
        for each in self.sessions.values():
            used += [each.query, each.result]
        self.rows = np.unique(np.concatenate(used))
        self._folder = folder
        self.before = self.latest = self._similarities(self._embed(start, check))
        self.baseline = self._metrics(self.before)

    def __call__(
        self,
        encoder: Encoder,
        *,
        loss: Loss | None = None,
        sampler: Callable[[Sessions], Sampler] | None = None,
        check: Check = lambda: None,
    ) -> dict[str, float]:
        """The metrics of an encoder, each with `train_` or `test_` in front; those without sessions are left out.

        With `loss` and `sampler` also `test_loss`, over the held-out sessions.
        """
        embeddings = self._embed(encoder, check)
        self.latest = self._similarities(embeddings)
        found = self._metrics(self.latest)
        if loss is not None and sampler is not None:
            found |= self._loss(embeddings, loss, sampler(self.sessions["test"]))
        return found

    def _embed(self, encoder: Encoder, check: Check) -> NDArray[np.float32]:
        embeddings: NDArray[np.float32] = encoder.embed(self.rows, folder=self._folder, check=check).numpy()
        return embeddings

    def _similarities(self, embeddings: NDArray[np.float32]) -> dict[str, tuple[Floats, Floats]]:
        """For each split the similarity of each result to its query, (R,), and the query's background, (R,)."""
        # The mean similarity to the background items is the similarity to their mean.
        background = embeddings[np.searchsorted(self.rows, self.background)].sum(axis=0) / max(len(self.background), 1)
        found: dict[str, tuple[Floats, Floats]] = {}
        for split, sessions in self.sessions.items():
            query, result = (np.searchsorted(self.rows, rows) for rows in (sessions.query, sessions.result))
            session = sessions.session
            similarity = [
                np.einsum("rd,rd->r", embeddings[query[session[part]]], embeddings[result[part]])
                for part in _parts(len(result))
            ]
            base = [embeddings[query[part]] @ background for part in _parts(len(query))]
            found[split] = (
                np.concatenate(similarity).astype(np.float64),
                np.concatenate(base).astype(np.float64)[session],
            )
        return found

    def session_values(self, split: str, now: dict[str, tuple[Floats, Floats]]) -> dict[str, Floats]:
        """Each metric of each session of a split, (S,); NaN for sessions that say nothing of it."""
        sessions = self.sessions[split]
        (after, after_base), (before, before_base) = now[split], self.before[split]
        gains, starts, irrelevant = self.gains[split], sessions.starts, sessions.irrelevant
        clicked = ~irrelevant
        nearer = metrics.clicked_shift(after - after_base, before - before_base, sessions.clicked, starts)
        nearer_raw = metrics.clicked_shift(after, before, sessions.clicked, starts)
        away = metrics.shown_shift(after - after_base, before - before_base, starts)
        away_raw = metrics.shown_shift(after, before, starts)
        return {
            "not_irrelevant_dist_shift": np.where(clicked, nearer, np.nan),
            "not_irrelevant_dist_shift_raw": np.where(clicked, nearer_raw, np.nan),
            "irrelevant_dist_shift": np.where(irrelevant, away, np.nan),
            "irrelevant_dist_shift_raw": np.where(irrelevant, away_raw, np.nan),
            "ndcg_at_10": np.where(clicked, metrics.ndcg(after, gains, starts), np.nan),
            "mrr": np.where(clicked, metrics.reciprocal_rank(after, gains, starts), np.nan),
            "recall_at_10": np.where(clicked, metrics.recall(after, gains, starts), np.nan),
        }

    def _metrics(self, now: dict[str, tuple[Floats, Floats]]) -> dict[str, float]:
        found: dict[str, float] = {}
        for split in self.sessions:
            values = self.session_values(split, now)
            found |= {
                f"{split}_{name}": float(np.nanmean(each)) for name, each in values.items() if not np.isnan(each).all()
            }
        return found

    def _loss(self, embeddings: NDArray[np.float32], loss: Loss, sampler: Sampler) -> dict[str, float]:
        total, sessions = 0.0, 0
        for batch in sampler.epoch(np.random.default_rng(0), shuffle=False):
            query = embeddings[np.searchsorted(self.rows, batch.queries)]
            item = embeddings[np.searchsorted(self.rows, batch.items)]
            total += float(loss(torch.from_numpy(query @ item.T), batch)) * batch.sessions
            sessions += batch.sessions
        return {"test_loss": total / sessions} if sessions else {}


def _parts(count: int, size: int = 4096) -> Iterable[slice]:
    """Slices that cover `count` elements, at least one, so that products of long lists need little memory."""
    return (slice(start, start + size) for start in range(0, max(count, 1), size))
