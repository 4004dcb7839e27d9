"""One training run over clicks: the loop, from top to bottom."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from tuneloop.search.averages import AveragedWeights
from tuneloop.search.cache import PrefixCache
from tuneloop.search.data import Batch, Sampler, TrainingData
from tuneloop.search.encoder import Check, Encoder
from tuneloop.search.evaluate import Evaluator
from tuneloop.search.losses import LOSSES, distillation
from tuneloop.search.memory import Memory
from tuneloop.search.start import StartModel

Report = Callable[[Mapping[str, float], int], None]
MAX_GRADIENT_NORM = 1.0
WARMUP_SHARE = 0.1


class LossDiverged(ArithmeticError):
    """The training loss is NaN or infinite."""


@dataclass(frozen=True)
class Params:
    """The hyperparameters of one run.

    Attributes:
        num_fixed_layers: layers, counted from the embeddings, that keep the start model's weights.
        fixed_attention: whether the attention of the layer above these keeps them as well; see `Encoder.fix_layers`.
        query_lr, items_lr: peak learning rates of the two encoders (one encoder: their geometric mean).
        query_weight_decay, items_weight_decay: AdamW's weight decay, likewise.
        margin, temperature, robustness: see `losses`.
        not_irrelevant_only: whether to leave irrelevant sessions out.
        negative_downsampling: the share of a session's shown but not clicked results that a step uses.
        negative_hardness: how much rather those that stood above others; see `Sampler`.
        loss: a name in `losses.LOSSES`.
        batch_size: sessions in a step.
        max_length: tokens of a text that a step reads, which can be fewer than an evaluation does.
        inverse_propensity: whether a click weighs the more the less people look where it was.
        averaging: the start model's share in the weights that are evaluated and kept; see `StartModel.averaged`.
        distillation: the weight of `losses.distillation`, which keeps what the start model thinks of a batch.
        seen_only: whether a not-clicked result is a negative only where the user looked; see `Sessions.seen`.
        replay: the share of the earlier batches' sessions that is trained on as well; see `TrainingData.with_replay`.
        memory: the weight of telling a batch's texts among those of the last steps; see `Memory.loss`.
    """

    num_fixed_layers: int
    query_lr: float
    items_lr: float
    query_weight_decay: float
    items_weight_decay: float
    margin: float
    temperature: float
    robustness: float
    not_irrelevant_only: bool
    negative_downsampling: float
    loss: str
    batch_size: int
    max_length: int | None = None
    inverse_propensity: bool = False
    averaging: float = 0.0
    distillation: float = 0.0
    seen_only: bool = False
    replay: float = 0.0
    memory: float = 0.0
    fixed_attention: bool = False
    negative_hardness: float = 0.0


@dataclass(frozen=True)
class Schedule:
    """How long a run is and how it is judged.

    Attributes:
        epochs: passes over the training sessions, at most.
        evaluations: how often the model is evaluated: at the end of the run, at its half, at its quarter and so on, so
            that a run which is not promising is known early. One of more than four epochs is evaluated after each epoch
            of its second half as well.
        patience: the run stops after so many evaluations in a row of its second half without a state that is better to
            keep.
        main_metric: decides which evaluated state is the best.
        maximize: whether more of it is better.
    """

    epochs: int
    evaluations: int
    patience: int
    main_metric: str
    maximize: bool = True


def train(
    encoder: Encoder,
    data: TrainingData,
    evaluator: Evaluator,
    params: Params,
    schedule: Schedule,
    *,
    seed: int,
    cache: PrefixCache | None = None,
    start_embeddings: Tensor | None = None,
    eligible: Callable[[Mapping[str, float]], bool] = lambda metrics: True,
    report: Report = lambda metrics, step: None,
    progress: Callable[[int, int], None] = lambda epoch, epochs: None,
    check: Check = lambda: None,
) -> dict[str, float]:
    """Train the encoder in place, leave it in its best evaluated state, and return the metrics of that state.

    What is evaluated and kept are the weights averaged over the last steps; see `AveragedWeights`.
    The best is the eligible state with the best main metric; with none eligible, the best of the others. States of the
    run's first half are kept only when none of the second is eligible: the learning rate is high still, and what such a
    state is better at on the held-out sessions it loses elsewhere.

    Args:
        encoder: holds the start model.
        data: sessions to learn from.
        evaluator: measures the model.
        params, schedule: what to do.
        seed: of everything random. The same arguments give the same model.
        cache: where to keep what the fixed layers give; shared by runs from the same start model.
        start_embeddings: of the texts that are trained on, by row, (N, d); see `embed_by_start_model`. Distillation
            needs them.
        eligible: whether a model with these metrics may become the best.
        report: receives metrics and the step, which counts from 1; may raise.
        progress: receives the epoch, counted from 1, and the number of epochs.
        check: called at least at every step; may raise.

    Raises:
        LossDiverged: the loss is no number any more.
        ValueError: there is nothing to learn from, or nothing to distil, or the main metric cannot be measured on these
            data.
    """
    torch.manual_seed(seed)
    shape = {"margin": params.margin, "temperature": params.temperature, "robustness": params.robustness}
    loss_of = partial(LOSSES[params.loss], **shape)
    sampler_of = partial(
        Sampler,
        batch_size=params.batch_size,
        negative_share=params.negative_downsampling,
        irrelevant=not params.not_irrelevant_only,
        propensity_exponent=data.propensity.exponent if params.inverse_propensity else 0.0,
        seen_only=params.seen_only,
        negative_hardness=params.negative_hardness,
    )
    sampler = sampler_of(data.with_replay(params.replay, seed=seed))
    steps = len(sampler) * schedule.epochs
    if steps == 0:
        raise ValueError("there is no session to learn from: none has a clicked result whose text is known")
    teacher = start_embeddings if params.distillation else None
    if params.distillation and teacher is None:
        raise ValueError("distillation needs the embeddings of the start model")
    encoder.fix_layers(params.num_fixed_layers, cache, attention=params.fixed_attention, check=check)
    start = StartModel(encoder) if params.averaging else None
    encode = partial(encoder.encode, max_length=params.max_length, check=check)
    memory = Memory(sampler) if params.memory else None
    optimizer = torch.optim.AdamW(
        encoder.parameter_groups(
            query_lr=params.query_lr,
            items_lr=params.items_lr,
            query_weight_decay=params.query_weight_decay,
            items_weight_decay=params.items_weight_decay,
        ),
        fused=True,
    )
    pace = torch.optim.lr_scheduler.LambdaLR(optimizer, partial(_learning_rate, steps=steps))
    average = AveragedWeights(encoder)
    evaluate_at = {math.ceil(steps / 2**halvings) for halvings in range(schedule.evaluations)}
    if schedule.epochs > 4:
        evaluate_at |= {len(sampler) * epoch for epoch in range(schedule.epochs // 2 + 1, schedule.epochs)}
    best: tuple[bool, bool, float] | None = None
    best_metrics: dict[str, float] = {}
    best_state: dict[str, Tensor] = {}
    stale = step = 0
    for epoch in range(schedule.epochs):
        progress(epoch + 1, schedule.epochs)
        for batch in sampler.epoch(np.random.default_rng([seed, epoch])):
            check()
            step += 1
            rows = np.concatenate([batch.queries, batch.items])
            embeddings = encode(rows)
            scores = _scores(embeddings, batch)
            loss = loss_of(scores, batch)
            value = float(loss.detach())
            if not math.isfinite(value):
                raise LossDiverged(f"the training loss is {value} at step {step}")
            if teacher is not None:
                before = _scores(teacher[torch.from_numpy(rows)].to(scores.device), batch)
                loss = loss + params.distillation * distillation(scores, before, temperature=params.temperature)
            if memory is not None:
                loss = loss + params.memory * memory.loss(embeddings, batch, **shape)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            torch.nn.utils.clip_grad_norm_(
                [each for group in optimizer.param_groups for each in group["params"]], MAX_GRADIENT_NORM
            )
            optimizer.step()
            pace.step()
            average.update()
            if memory is not None:
                memory.put(embeddings, batch)
            report({"train_loss": value}, step)
            if step not in evaluate_at:
                continue
            with average.applied(), start.averaged(params.averaging) if start else nullcontext():
                found = evaluator(encoder, loss=loss_of, sampler=sampler_of, check=check)
                state = encoder.trained_state()
            found["train_loss"] = value
            if schedule.main_metric not in found:
                raise ValueError(f"these data hold no session from which {schedule.main_metric} can be measured")
            main = found[schedule.main_metric]
            second_half = 2 * step >= steps
            rank = eligible(found), second_half, main if schedule.maximize else -main
            if best is None or rank > best:
                best, best_metrics, best_state = rank, found, state
                stale = 0
            elif second_half:
                stale += 1
            report(found, step)
            if stale >= schedule.patience:
                break
        if stale >= schedule.patience:
            break
    encoder.load_state(best_state)
    encoder.release()
    return best_metrics


def _scores(embeddings: Tensor, batch: Batch) -> Tensor:
    """Cosine similarities of the batch's queries and items, (Q, M)."""
    queries = len(batch.queries)
    return embeddings[:queries] @ embeddings[queries:].T


def _learning_rate(step: int, *, steps: int) -> float:
    """The share of the peak learning rate: a linear rise, then a linear fall to nearly nothing."""
    warmup = max(1, round(WARMUP_SHARE * steps))
    return min((step + 1) / warmup, (steps - step) / max(1, steps - warmup + 1), 1.0)
