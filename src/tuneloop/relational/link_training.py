"""Training and use of networks that say what entities will be linked to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor

from tuneloop.relational.examples import Examples
from tuneloop.relational.graph import Ints, ranges
from tuneloop.relational.learner import Links, Watcher
from tuneloop.relational.link_examples import label_pairs
from tuneloop.relational.link_network import LinkNetwork, Met
from tuneloop.relational.link_rows import round_down
from tuneloop.relational.metrics import measure_links
from tuneloop.relational.sampler import Sampled, Sampler
from tuneloop.relational.training import Pulse, Weights, make_sampler, one_thread, order_of
from tuneloop.relational.world import Seeds, World, hash_keys

DRAWN = 512  # targets that a step tells the right ones from, beside those that its examples met
TARGET_FAN_OUT = 12
AT_ONCE = 256  # examples
CELLS = 4_000_000  # examples × targets at once
JUDGED = 2000  # examples that an epoch is judged by, at most
LEARNT = 500  # training examples among them


@dataclass(frozen=True)
class LinkLesson:
    """Examples to learn from or to judge by.

    Attributes:
        examples: they.
        seeds: as the sampler takes them.
        starts: where each one's targets begin in `rows`, (N + 1,).
        rows: the targets' rows, an example's after another.
    """

    examples: Examples
    seeds: Seeds
    starts: Ints
    rows: Ints

    @classmethod
    def of(cls, place: LinkPlace, examples: Examples) -> LinkLesson:
        """Examples with their labels; those without a label that has a row teach nothing, but are judged by."""
        assert examples.labels is not None
        at, keys = label_pairs(examples.labels)
        rows = place.targets.graph.find(pa.chunked_array([keys]))
        pairs = np.unique(np.stack([at, rows])[:, rows >= 0], axis=1)
        starts = np.zeros(len(examples) + 1, np.int64)
        np.cumsum(np.bincount(pairs[0], minlength=len(examples)), out=starts[1:])
        return cls(examples, place.world.seeds(examples), starts, pairs[1])

    def take(self, at: Ints) -> LinkLesson:
        """Some of them."""
        _, rows = self.pairs(at)
        counts = np.diff(self.starts)[at]
        return LinkLesson(self.examples.take(at), self.seeds.take(at), np.concatenate([[0], np.cumsum(counts)]), rows)

    def pairs(self, at: Ints) -> tuple[Ints, Ints]:
        """The targets of some of them: places in `at` and rows, (P,) each."""
        counts = np.diff(self.starts)[at]
        whom = np.repeat(np.arange(len(at)), counts)
        return whom, self.rows[ranges(self.starts[at], counts)]


class LinkPlace:
    """The rows, seen from entities and from what they may be linked to.

    Args:
        world: the rows, seen from entities.
        params: as `tuneloop.relational.gnn_links` names them.
        known: the keys of targets that have vectors of their own, as text.
        again: which foreign keys of one table tell what entities were linked to before, to the entity and to the
            target, where nothing else is predicted.
    """

    def __init__(
        self, world: World, params: Mapping[str, Any], known: Sequence[str], again: tuple[int, int] | None
    ) -> None:
        self.world, self.targets = world, world.turned()
        self.params = params
        self.known = known
        self._sampler = make_sampler(world, params)
        self._target_sampler = Sampler(self.targets.graph, [TARGET_FAN_OUT], "last")
        keys = self.targets.graph.keys
        self._hashes = hash_keys(pa.chunked_array([keys]))
        codes = pc.index_in(pc.cast(keys, pa.string()), pa.array(known, pa.string()))
        self._codes = torch.from_numpy(pc.fill_null(codes, -1).to_numpy().astype(np.int64) + 1)
        self._again = again

    def __len__(self) -> int:
        return len(self._hashes)

    def network(self) -> LinkNetwork:
        """A network as it starts."""
        reading, graph, params = self.world.reading, self.world.graph, self.params
        return LinkNetwork(
            reading.encoding,
            self.world.links,
            graph.entity,
            graph.target,
            reading.scales,
            known=len(self.known),
            channels=params["channels"],
            hops=params["hops"],
            dropout=params["dropout"],
            anonymity=params["anonymity"],
            variant=params["variant"],
        )

    def sample(self, seeds: Seeds, seed: int) -> Sampled:
        """What examples look at."""
        return self._sampler.sample(seeds.rows, seeds.hashes, seeds.times, seeds.limits, seed=seed)

    def towers(self, network: LinkNetwork, rows: Ints, time: int, cut: int) -> tuple[Tensor, Tensor]:
        """Vectors of targets as they are known at a cut-off, (T, C), and how popular each is, (T,)."""
        times, cuts = np.full(len(rows), time), np.full(len(rows), min(time, cut))
        sampled = self._target_sampler.sample(rows, self._hashes[rows], times, np.full(len(rows), cut), seed=0)
        return network.targets(sampled, self.world.tables, times, cuts, self._codes[torch.from_numpy(rows)])

    def there(self, cut: int) -> Ints:
        """The targets that are known at a cut-off."""
        rows = self.targets.graph.tables[self.targets.graph.entity]
        return np.arange(int(np.searchsorted(rows.times, cut, side="right")))

    def before(self, seeds: Seeds) -> tuple[Ints, Ints] | None:
        """What examples were linked to by their cut-offs: places and rows, (P,) each; None where that is no matter."""
        if self._again is None:
            return None
        to_source, to_target = (self.world.graph.links[number] for number in self._again)
        known = np.flatnonzero(seeds.rows >= 0)
        starts = to_source.starts[seeds.rows[known]]
        counts = to_source.starts[seeds.rows[known] + 1] - starts
        at = np.repeat(known, counts)
        links = to_source.rows[ranges(starts, counts)]
        rows = to_target.parents[links]
        met = (self.world.graph.tables[to_source.child].times[links] <= seeds.limits[at]) & (rows >= 0)
        return at[met], rows[met]


class LinkTrainer:
    """Trains one network.

    Args:
        place: the rows.
        metric: what decides which epoch is best.
        k: how many links of each example are predicted.
        ages: how old what is known may be in training, microseconds; drawn anew for each step.
        seed: of weights, order, ages and neighbours.
        watcher: whoever waits.
    """

    def __init__(self, place: LinkPlace, metric: str, k: int, ages: Ints, *, seed: int, watcher: Watcher) -> None:
        self._place, self._metric, self._k, self._ages = place, metric, k, ages
        self._seed, self._watcher, self._pulse = seed, watcher, Pulse(watcher)
        self._rng = np.random.default_rng([seed, 11])
        torch.manual_seed(seed)
        self._weights = Weights(place.network, place.params)

    @one_thread()
    def run(self, train: LinkLesson, validation: LinkLesson | None, epochs: int) -> tuple[LinkNetwork, int]:
        """The network with the best weights, and after how many epochs it had them.

        Without validation examples the last weights count. The learning rate falls as if for `params["epochs"]`.
        """
        teaching = np.flatnonzero(np.diff(train.starts))
        learnt = train.take(_some(teaching, LEARNT))
        held = None if validation is None else validation.take(_some(np.arange(len(validation.seeds)), JUDGED))

        def judge() -> tuple[dict[str, float], float]:
            assert held is not None
            value, loss = self._judge(held)
            found = {
                f"train_metric_{self._metric}": self._judge(learnt)[0],
                "val_loss": loss,
                f"val_metric_{self._metric}": value,
            }
            return found, -loss if np.isnan(value) else value

        best = self._weights.learn(
            partial(self._epoch, train, teaching), judge if held is not None else None, epochs, self._watcher
        )
        return self._weights.average, best

    def _judge(self, lesson: LinkLesson) -> tuple[float, float]:
        links, _, loss = predict_links(self._weights.average, self._place, lesson.seeds, self._k, self._pulse, lesson)
        assert lesson.examples.labels is not None
        return measure_links(self._metric, lesson.examples.labels, links), loss

    def _epoch(self, train: LinkLesson, teaching: Ints, epoch: int) -> dict[str, float]:
        """One pass. Examples of one time stand together: they see the same targets."""
        order = teaching[order_of(len(teaching), self._place.params["batch_size"], self._rng)]
        order = order[np.argsort(train.seeds.times[order], kind="stable")]
        steps = np.array_split(order, max(len(order) // self._place.params["batch_size"], 1))
        self._weights.network.train()
        total = 0.0
        for number, at in enumerate(self._rng.permutation(len(steps))):
            seed = self._seed * 1_000_003 + epoch * 1_009 + number
            loss = self._loss(train, steps[at], seed)
            rate = self._weights.step(loss, len(steps))
            total += float(loss.detach()) * len(steps[at])
            self._pulse()
        return {"train_loss": total / len(order), "learning_rate": rate}

    def _loss(self, train: LinkLesson, at: Ints, seed: int) -> Tensor:
        """How unlikely an example's targets are among those drawn, those it met, and themselves."""
        place, network = self._place, self._weights.network
        seeds = train.seeds.take(at).aged(np.full(len(at), self._rng.choice(self._ages)))
        whom, right = train.pairs(at)
        vectors, _, met = network.sources(place.sample(seeds, seed), place.world.tables, seeds)
        there = place.there(int(seeds.limits.min()))
        drawn = self._rng.choice(there, DRAWN, replace=False) if len(there) > DRAWN else there
        columns = np.unique(np.concatenate([drawn, right, met.rows.numpy()]))
        targets, popular = place.towers(network, columns, int(seeds.times.min()), int(seeds.limits.min()))
        scores = network.scores(vectors, met, targets, popular, _places(met, columns, len(place)))
        # Each drawn target stands for several; the others are only looked at by those examples that they concern.
        weight = torch.full((len(columns),), -torch.inf)
        weight[torch.from_numpy(np.isin(columns, drawn))] = float(np.log(max(len(there), 1) / max(len(drawn), 1)))
        offsets = weight.repeat(len(at), 1)
        rights = torch.from_numpy(whom), torch.from_numpy(np.searchsorted(columns, right))
        offsets[met.at, torch.from_numpy(np.searchsorted(columns, met.rows.numpy()))] = 0.0
        offsets[rights] = 0.0
        likely = torch.log_softmax(scores + offsets, 1)[rights]
        share = torch.from_numpy((1.0 / np.diff(train.starts)[at])[whom].astype(np.float32))
        return -(likely * share).sum() / len(at)


@one_thread()
@torch.no_grad()
def predict_links(
    network: LinkNetwork, place: LinkPlace, seeds: Seeds, k: int, pulse: Pulse, lesson: LinkLesson | None = None
) -> tuple[Links, NDArray[np.float32], float]:
    """The k likeliest links of each example, what is known of it as a vector, and the mean loss of labels."""
    network.eval()
    best, values = np.full((len(seeds), k), -1), np.full((len(seeds), k), -np.inf)
    embeddings = np.zeros((len(seeds), place.params["channels"]), np.float32)
    losses = []
    for at, time, cut in _moments(seeds, place.params["step"]):
        columns = place.there(cut)
        parts = []
        for start in range(0, len(columns), AT_ONCE):
            pulse()
            parts.append(place.towers(network, columns[start : start + AT_ONCE], time, cut))
        if not parts:
            continue
        targets, popular = (torch.cat(each) for each in zip(*parts, strict=True))
        size = max(1, min(AT_ONCE, CELLS // len(columns)))
        for start in range(0, len(at), size):
            pulse()
            some = at[start : start + size]
            asked = seeds.take(some)
            vectors, embedded, met = network.sources(place.sample(asked, 0), place.world.tables, asked)
            scores = network.scores(vectors, met, targets, popular, _places(met, columns, len(place)))
            embeddings[some] = embedded.numpy()
            if lesson is not None:
                losses.append(_loss_of(scores, lesson, some))
            before = place.before(asked)
            if before is not None:
                scores = _only(scores, before, len(columns))
            best[some], values[some] = _best(scores.double().numpy(), k)
    keys = place.targets.graph.keys
    flat = best.ravel()
    links = Links(keys.take(pa.array(flat, mask=flat < 0)), values)
    return links, embeddings, float(np.concatenate(losses).mean()) if losses else float("nan")


def _moments(seeds: Seeds, step: int) -> Iterator[tuple[Ints, int, int]]:
    """Examples that see the same targets: their places, the time, and the cut-off, both rounded down to days."""
    both = np.stack([round_down(seeds.times, step), round_down(seeds.limits, step)])
    moments, group = np.unique(both, axis=1, return_inverse=True)
    for number, (time, cut) in enumerate(moments.T.tolist()):
        yield np.flatnonzero(group.ravel() == number), time, cut


def _places(met: Met, columns: Ints, count: int) -> Tensor:
    """Where what was met stands among the rows of columns, (P,); -1 for what does not, of so many rows in all."""
    places = np.full(count, -1)
    places[columns] = np.arange(len(columns))
    return torch.from_numpy(places[met.rows.numpy()])


def _only(scores: Tensor, pairs: tuple[Ints, Ints], count: int) -> Tensor:
    """The scores of some pairs; -inf for all others."""
    at, rows = pairs
    allowed = torch.full_like(scores, -torch.inf)
    some = rows < count
    allowed[torch.from_numpy(at[some]), torch.from_numpy(rows[some])] = 0.0
    return scores + allowed


def _loss_of(scores: Tensor, lesson: LinkLesson, at: Ints) -> NDArray[np.float64]:
    """The mean loss of each example's labels, of those that have any."""
    whom, right = lesson.pairs(at)
    some = right < scores.shape[1]
    whom, right = whom[some], right[some]
    likely = torch.log_softmax(scores, 1)[torch.from_numpy(whom), torch.from_numpy(right)].double().numpy()
    counts = np.bincount(whom, minlength=len(at))
    return -np.bincount(whom, likely, len(at))[counts > 0] / counts[counts > 0]


def _best(scores: NDArray[np.float64], k: int) -> tuple[Ints, NDArray[np.float64]]:
    """Columns and values of the k largest of each row, the first of equals first; -1 and -inf where there are fewer."""
    few = min(k, scores.shape[1])
    order = np.argsort(-scores, axis=1, kind="stable")[:, :few]
    found = np.take_along_axis(scores, order, axis=1)
    best, values = np.full((len(scores), k), -1), np.full((len(scores), k), -np.inf)
    best[:, :few], values[:, :few] = np.where(np.isneginf(found), -1, order), found
    return best, values


def _some(at: Ints, most: int) -> Ints:
    """So many of them at most, spread over all."""
    return at[np.linspace(0, len(at) - 1, most).astype(np.int64)] if len(at) > most else at
