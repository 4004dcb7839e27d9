"""What training minimises, over the similarities of a batch's queries and items."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import softplus

from tuneloop.search.data import Batch

Loss = Callable[..., Tensor]


def margin_ranking(scores: Tensor, batch: Batch, *, margin: float, temperature: float) -> Tensor:
    """Probabilistic margin ranking loss: −log σ((s_clicked − s_not_clicked − margin) / temperature).

    Args:
        scores: cosine similarities of the batch's queries and items, (Q, M) float32.
        batch: the pairs; each session weighs the same.
        margin: by how much a clicked result should be nearer than a not-clicked one.
        temperature: the similarity difference that counts as one unit of the logistic.

    Returns:
        The mean over the sessions, a scalar.
    """
    query, clicked, other = torch.from_numpy(batch.pair).to(scores.device).unbind(1)
    difference = scores[query, clicked] - scores[query, other] - margin
    weight = torch.from_numpy(batch.pair_weight).to(scores.device)
    total = (weight * softplus(-difference / temperature)).sum()
    return (total + _push_away(scores, batch, margin, temperature)) / batch.sessions


def contrastive(scores: Tensor, batch: Batch, *, margin: float, temperature: float) -> Tensor:
    """In-batch softmax over a clicked item and all items of the batch that its query is not known to like.

    The shown but not clicked results of all sessions are among them, as hard negatives (van den Oord et al.,
    Representation Learning with Contrastive Predictive Coding, 2018, with an additive margin). Arguments and result
    as in `margin_ranking`.
    """
    query, clicked = torch.from_numpy(batch.click).to(scores.device).unbind(1)
    known = torch.from_numpy(batch.known).to(scores.device)
    # Not -inf: a row whose items are all known would have no gradient.
    others = torch.logsumexp((scores / temperature).masked_fill(known, -1e9), dim=1)  # (Q,)
    target = (scores[query, clicked] - margin) / temperature
    weight = torch.from_numpy(batch.click_weight).to(scores.device)
    total = (weight * softplus(others[query] - target)).sum()
    return (total + _push_away(scores, batch, margin, temperature)) / batch.sessions


def combined(scores: Tensor, batch: Batch, *, margin: float, temperature: float) -> Tensor:
    """The mean of both: contrastive without a margin, which tells the right item from all others, and margin ranking at
    twice the temperature, which forgives the mistaken clicks that the first takes too seriously.
    """
    sharp = contrastive(scores, batch, margin=0.0, temperature=temperature)
    return (sharp + margin_ranking(scores, batch, margin=margin, temperature=2 * temperature)) / 2


def _push_away(scores: Tensor, batch: Batch, margin: float, temperature: float) -> Tensor:
    """Results of irrelevant sessions should be no nearer to the query than the batch's items are on average."""
    query, shown = torch.from_numpy(batch.away).to(scores.device).unbind(1)
    background = scores.detach().mean(dim=1)
    weight = torch.from_numpy(batch.away_weight).to(scores.device)
    return (weight * softplus((scores[query, shown] - background[query] + margin) / temperature)).sum()


LOSSES: dict[str, Loss] = {"combined": combined, "contrastive": contrastive, "margin_ranking": margin_ranking}
