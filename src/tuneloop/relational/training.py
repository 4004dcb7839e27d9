"""Training of networks over sampled rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tuneloop.relational.graph import Ints
from tuneloop.relational.learner import Watcher
from tuneloop.relational.metrics import measure
from tuneloop.relational.network import Network
from tuneloop.relational.sampler import Sampled, Sampler
from tuneloop.relational.targets import Target
from tuneloop.relational.world import Seeds, World

MIN_STEPS, MAX_STEPS = 12, 200  # of an epoch: few examples are met more than once
AVERAGED = 0.97  # of the weights a step before
WARM_UP = 20  # steps
CHECK_SECONDS = 1.0
PREDICTED = 512  # examples at a time
N = TypeVar("N", bound=nn.Module)


@dataclass(frozen=True)
class Lesson:
    """Examples to learn from or to judge by.

    Attributes:
        seeds: the examples.
        numbers: their labels.
        weights: how much each counts, (N,).
    """

    seeds: Seeds
    numbers: NDArray[np.float64]
    weights: NDArray[np.float32]


class Pulse:
    """Asks now and then whether to go on."""

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher
        self._last = 0.0

    def __call__(self) -> None:
        """Ask, unless that was just done."""
        now = time.monotonic()
        if now - self._last >= CHECK_SECONDS:
            self._last = now
            self._watcher.check()


@contextmanager
def one_thread() -> Iterator[None]:
    """Many small products: a second thread gains little, and where cores are shared the threads wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Weights(Generic[N]):
    """Weights that are trained, and the mean of what they were of late.

    Args:
        make: makes a network as it starts.
        params: `learning_rate`, `weight_decay`, over how many `epochs` the rate falls, and the `patience`: epochs
            without better weights.

    Attributes:
        network: what is trained.
        average: what is used.
    """

    def __init__(self, make: Callable[[], N], params: Mapping[str, Any]) -> None:
        self.network, self.average = make(), make()
        self._params = params
        self._optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=params["learning_rate"], weight_decay=params["weight_decay"]
        )
        self._steps = 0

    def step(self, loss: Tensor, steps: int) -> float:
        """Follow the gradient of a loss; the learning rate, as one of so many steps of an epoch."""
        rate = self._pace(steps)
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # PyTorch gives it no types
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self._optimizer.step()
        self._follow()
        self._steps += 1
        return rate

    def learn(
        self,
        epoch: Callable[[int], dict[str, float]],
        judge: Callable[[], tuple[dict[str, float], float]] | None,
        epochs: int,
        watcher: Watcher,
    ) -> int:
        """Train until the averaged weights no longer become better; these are then as they were at their best.

        Args:
            epoch: trains for one, of which it is told the number, from 1; its metrics.
            judge: metrics of the averaged weights, and what is to become larger; without it the last weights count.
            epochs: how many there are at most.
            watcher: told of each.

        Returns:
            The epoch after which they were best.
        """
        best, best_epoch, chosen = -np.inf, 0, None
        for number in range(1, epochs + 1):
            watcher.progress("training", epoch=number, epochs=epochs)
            metrics = epoch(number)
            if judge is not None:
                more, gain = judge()
                metrics |= more
                if gain > best:
                    best, best_epoch = gain, number
                    chosen = {name: value.clone() for name, value in self.average.state_dict().items()}
            watcher.report(metrics, step=number)
            if judge is not None and number - best_epoch >= self._params["patience"]:
                break
        if chosen is not None:
            self.average.load_state_dict(chosen)
        return best_epoch or epochs

    @torch.no_grad()
    def _follow(self) -> None:
        """Move the averaged weights, of which the first are soon forgotten."""
        share = max(1.0 - AVERAGED, 1.0 / (self._steps + 1))
        for mean, now in zip(self.average.parameters(), self.network.parameters(), strict=True):
            mean.lerp_(now, share)

    def _pace(self, steps: int) -> float:
        """Set the learning rate: it warms up, then falls as a cosine to a tenth over all epochs."""
        share = min(self._steps / (self._params["epochs"] * steps), 1.0)
        rate = self._params["learning_rate"] * (0.55 + 0.45 * np.cos(np.pi * share))
        rate *= min((self._steps + 1) / WARM_UP, 1.0)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        return float(rate)


class Trainer:
    """Trains one network.

    Args:
        world: the tables.
        target: what is predicted.
        metric: what decides which epoch is best.
        maximise: whether a larger value of it is better.
        params: as `tuneloop.relational.gnn_nodes` names them.
        features: how many are read beside the rows.
        seed: of weights, order and neighbours.
        watcher: whoever waits.
    """

    def __init__(
        self,
        world: World,
        target: Target,
        metric: str,
        maximise: bool,
        params: Mapping[str, Any],
        features: int,
        *,
        seed: int,
        watcher: Watcher,
    ) -> None:
        self._world, self._target, self._metric, self._maximise = world, target, metric, maximise
        self._params, self._seed, self._watcher = params, seed, watcher
        self._sampler = make_sampler(world, params)
        self._pulse = Pulse(watcher)
        self._rng = np.random.default_rng([seed, 7])
        torch.manual_seed(seed)
        self._weights = Weights(lambda: make_network(world, target.outputs, params, features), params)

    @one_thread()
    def run(self, train: Lesson, validation: Lesson | None, epochs: int) -> tuple[Network, int]:
        """The network with the best weights, and after how many epochs it had them.

        Without validation examples the last weights count. The learning rate falls as if for `params["epochs"]`.
        """
        held = [] if validation is None else list(batches(self._sampler, validation.seeds, self._pulse))

        def judge() -> tuple[dict[str, float], float]:
            assert validation is not None
            outputs, _ = apply(self._weights.average, self._world, held, self._pulse)
            value = self._judge(outputs, validation.numbers)
            loss = float(self._target.loss(outputs, validation.numbers).mean())
            gain = -loss if np.isnan(value) else value if self._maximise else -value
            return {"val_loss": loss, f"val_metric_{self._metric}": value}, gain

        best = self._weights.learn(
            partial(self._epoch, train), judge if validation is not None else None, epochs, self._watcher
        )
        return self._weights.average, best

    def _epoch(self, train: Lesson, epoch: int) -> dict[str, float]:
        """One pass. Loss and metric are those of its steps, each before it changed the weights."""
        order = order_of(len(train.seeds), self._params["batch_size"], self._rng)
        steps = np.array_split(order, max(len(order) // self._params["batch_size"], 1))
        total, outputs = 0.0, []
        self._weights.network.train()
        for number, at in enumerate(steps):
            seeds = train.seeds.take(at)
            seed = self._seed * 1_000_003 + epoch * 1_009 + number
            sampled = self._sampler.sample(seeds.rows, seeds.hashes, seeds.times, seeds.limits, seed=seed)
            found, _ = self._weights.network(sampled, self._world.tables, seeds.times, seeds.cuts, seeds.features)
            weights = torch.from_numpy(train.weights[at])
            loss = (self._target.loss(found, train.numbers[at]) * weights).sum() / weights.sum()
            rate = self._weights.step(loss, len(steps))
            total += float(loss.detach()) * len(at)
            outputs.append(found.detach())
            self._pulse()
        value = self._judge(torch.cat(outputs), train.numbers[order])
        return {"train_loss": total / len(order), f"train_metric_{self._metric}": value, "learning_rate": rate}

    def _judge(self, outputs: Tensor, numbers: NDArray[np.float64]) -> float:
        return measure(self._metric, numbers, self._target.predictions(outputs))


def order_of(count: int, batch_size: int, rng: np.random.Generator) -> Ints:
    """The examples of an epoch: all, few of them several times, of very many some."""
    copies = max(1, -(-MIN_STEPS * batch_size // count))
    order = np.concatenate([rng.permutation(count) for _ in range(copies)])
    return order[: MAX_STEPS * batch_size]


def make_sampler(world: World, params: Mapping[str, Any]) -> Sampler:
    """A sampler whose fan-outs halve with every hop."""
    fan_outs = [max(params["fan_out"] // 2**hop, 1) for hop in range(params["hops"])]
    return Sampler(world.graph, fan_outs, params["strategy"])


def make_network(world: World, outputs: int, params: Mapping[str, Any], features: int) -> Network:
    """A network as it starts."""
    return Network(
        world.reading.encoding,
        world.links,
        world.graph.entity,
        world.reading.scales,
        channels=params["channels"],
        hops=params["hops"],
        outputs=outputs,
        dropout=params["dropout"],
        anonymity=params["anonymity"],
        features=features,
    )


def batches(sampler: Sampler, seeds: Seeds, pulse: Pulse) -> Iterator[tuple[Seeds, Sampled]]:
    """Examples with what they look at, always the same."""
    for start in range(0, len(seeds), PREDICTED):
        pulse()
        part = seeds.take(np.arange(start, min(start + PREDICTED, len(seeds))))
        yield part, sampler.sample(part.rows, part.hashes, part.times, part.limits, seed=0)


@one_thread()
@torch.no_grad()
def apply(
    network: Network, world: World, found: Iterable[tuple[Seeds, Sampled]], pulse: Pulse
) -> tuple[Tensor, Tensor]:
    """Outputs, (N, O), and embeddings, (N, C)."""
    network.eval()
    outputs, embeddings = [], []
    for seeds, sampled in found:
        pulse()
        each, embedded = network(sampled, world.tables, seeds.times, seeds.cuts, seeds.features)
        outputs.append(each)
        embeddings.append(embedded)
    return torch.cat(outputs), torch.cat(embeddings)
