"""What training minimises, over the similarities of a batch's queries and items."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax, softplus

from tuneloop.search.data import Batch

Loss = Callable[..., Tensor]
LEAST_SUM = 1e-30  # of a row without clicks, which weighs nothing


def margin_ranking(scores: Tensor, batch: Batch, *, margin: float, temperature: float, robustness: float) -> Tensor:
    """Probabilistic margin ranking loss: p = σ((s_clicked − s_not_clicked − margin) / temperature).

    Args:
        scores: cosine similarities of the batch's queries and items, (Q, M) float32.
        batch: the pairs; each session weighs the same, but for the weights of its clicks.
        margin: by how much a clicked result should be nearer than a not-clicked one.
        temperature: the similarity difference that counts as one unit of the logistic.
        robustness: see `_cost`.

    Returns:
        The mean over the sessions, a scalar.
    """
    query, clicked, other = torch.from_numpy(batch.pair).to(scores.device).unbind(1)
    difference = scores[query, clicked] - scores[query, other] - margin
    weight = torch.from_numpy(batch.pair_weight).to(scores.device)
    total = (weight * _cost(softplus(-difference / temperature), robustness)).sum()
    return (total + _push_away(scores, batch, margin, temperature)) / batch.sessions


def contrastive(scores: Tensor, batch: Batch, *, margin: float, temperature: float, robustness: float) -> Tensor:
    """In-batch softmax: p is the share of a session's clicked items, together, beside all items of the batch that its
    query is not known to like.

    The shown but not clicked results of all sessions are among those, as hard negatives. That one clicked item is near
    is enough, whichever: of several clicks some are mistakes (MIL-NCE: Miech et al., End-to-End Learning of Visual
    Representations from Uncurated Instructional Videos, 2020, with an additive margin). Arguments and result as in
    `margin_ranking`.
    """
    total = among(
        scores,
        batch.known,
        batch.click,
        batch.click_weight,
        margin=margin,
        temperature=temperature,
        robustness=robustness,
    )
    return (total + _push_away(scores, batch, margin, temperature)) / batch.sessions


def among(
    scores: Tensor,
    known: NDArray[np.bool_],
    click: NDArray[np.int64],
    weight: NDArray[np.float32],
    *,
    margin: float,
    temperature: float,
    robustness: float,
) -> Tensor:
    """What it costs that texts of one kind are found among those of the other by a softmax, as in `contrastive`.

    Args:
        scores: cosine similarities, (A, B) float32.
        known: the pairs that no cost is to push apart, (A, B).
        click: the pairs that should be near, (C, 2) indices into A and B; of a row's several, together.
        weight: of each of these, (C,) float32.
        margin, temperature, robustness: as in `margin_ranking`.

    Returns:
        The weighted sum, a scalar.
    """
    rows = torch.from_numpy(click[:, 0]).to(scores.device)
    row, column = torch.from_numpy(np.unique(click, axis=0)).to(scores.device).unbind(1)
    # Not -inf: a row without an item on one of the sides would have no gradient.
    hidden = (scores / temperature).masked_fill(torch.from_numpy(known).to(scores.device), -1e9)
    others = torch.logsumexp(hidden, dim=1)  # (A,)
    near = (scores[row, column] - margin) / temperature
    highest = torch.zeros_like(others).scatter_reduce(0, row, near.detach(), "amax", include_self=False)
    sums = torch.zeros_like(others).index_add(0, row, torch.exp(near - highest[row]))
    target = highest + torch.log(sums.clamp_min(LEAST_SUM))
    weights = torch.zeros_like(target).index_add(0, rows, torch.from_numpy(weight).to(scores.device))
    return (weights * _cost(softplus(others - target), robustness)).sum()


def _cost(surprise: Tensor, robustness: float) -> Tensor:
    """What a probability p costs, by its −log p: (1 − p^q) / q, with q the robustness, and −log p itself for q = 0.

    The more robust, the less a click counts that the model finds implausible, which is what a mistaken one looks like
    (Zhang and Sabuncu, Generalized Cross Entropy Loss for Training Deep Neural Networks with Noisy Labels, 2018).
    """
    return -torch.expm1(-robustness * surprise) / robustness if robustness > 1e-6 else surprise


def _push_away(scores: Tensor, batch: Batch, margin: float, temperature: float) -> Tensor:
    """Results of irrelevant sessions should be no nearer to the query than the batch's items are on average."""
    query, shown = torch.from_numpy(batch.away).to(scores.device).unbind(1)
    background = scores.detach().mean(dim=1)
    weight = torch.from_numpy(batch.away_weight).to(scores.device)
    return (weight * softplus((scores[query, shown] - background[query] + margin) / temperature)).sum()


def distillation(scores: Tensor, start: Tensor, *, temperature: float) -> Tensor:
    """How far the model has left the start model: KL(start ‖ model) of their softmax over the batch's items.

    A student that keeps its teacher's soft answers keeps what no label tells (Hinton, Vinyals and Dean, Distilling the
    Knowledge in a Neural Network, 2015; against forgetting: Li and Hoiem, Learning without Forgetting, 2016).

    Args:
        scores, start: cosine similarities by the model and by the start model, (Q, M) float32.
        temperature: of both.

    Returns:
        The mean over the queries, a scalar; 0 where both agree.
    """
    now, before = log_softmax(scores / temperature, dim=1), log_softmax(start / temperature, dim=1)
    return kl_div(now, before, reduction="batchmean", log_target=True)


LOSSES: dict[str, Loss] = {"contrastive": contrastive, "margin_ranking": margin_ranking}
