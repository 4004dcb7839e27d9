"""Which rows an entity will be linked to: two towers, and what was found around the entity itself.

A tower makes a vector of an entity, another one of what it may be linked to, each from the rows around it; they fit
where their product is large. That knows nothing of whether the two have met. So what was reached from an entity is also
judged by the way that led there (You et al., Identity-aware Graph Neural Networks, 2021; both together as in Yuan et
al., ContextGNN, 2024).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch_geometric.utils import softmax

from tuneloop.relational.encoders import Encoded, TableEncoding
from tuneloop.relational.graph import Ints
from tuneloop.relational.network import Network
from tuneloop.relational.sampler import Sampled
from tuneloop.relational.world import Seeds

Variant = Literal["both", "two_tower", "id_aware"]
TARGET_HOPS = 1
HEADS = 4  # ways to look back


@dataclass(frozen=True)
class Met:
    """What was reached from entities, each pair once.

    Attributes:
        at: places of examples in the batch, (P,).
        rows: rows of the targets' table, (P,).
        scores: how likely they are linked to again, (P,).
        weights: how much they say of what else their example likes, (P, HEADS), before a softmax over each example's.
    """

    at: Tensor
    rows: Tensor
    scores: Tensor
    weights: Tensor


class LinkNetwork(nn.Module):
    """Scores of pairs.

    Args:
        encoding: how tables are read.
        links: child and parent of each foreign key.
        source: the table of whom examples are about.
        target: the table of what they may be linked to.
        scales: days, of times.
        known: how many targets have a vector of their own, beside what their rows say.
        channels: of each node.
        hops: how many layers the source's tower has.
        dropout: of nodes' channels.
        anonymity: how often in training an entity's own row and a target's own vector are hidden.
        variant: `two_tower`, `id_aware`, or both together.
    """

    def __init__(
        self,
        encoding: Mapping[str, TableEncoding],
        links: Sequence[tuple[str, str]],
        source: str,
        target: str,
        scales: Sequence[float],
        *,
        known: int,
        channels: int,
        hops: int,
        dropout: float,
        anonymity: float,
        variant: Variant,
    ) -> None:
        super().__init__()
        self._target, self._anonymity, self._channels = target, anonymity, channels
        self.source = Network(
            encoding, links, source, scales, channels=channels, hops=hops, outputs=channels, dropout=dropout,
            anonymity=anonymity,
        )  # fmt: skip
        self.target = Network(
            encoding, links, target, scales, channels=channels, hops=TARGET_HOPS, outputs=channels + 1,
            dropout=dropout, anonymity=0.0,
        )  # fmt: skip
        self.known = nn.Embedding(known + 1, channels, padding_idx=0)
        nn.init.normal_(self.known.weight[1:], std=0.1)
        self.towers = variant != "id_aware"
        self.way = Way(self.source, channels) if variant != "two_tower" else None
        self.taste = nn.Linear(channels, channels)
        nn.init.eye_(self.taste.weight)  # at first, what is like what was met

    def targets(
        self, sampled: Sampled, tables: Mapping[str, Encoded], times: Ints, cuts: Ints, codes: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Vectors, (T, C), and how popular each is by itself, (T,).

        Args:
            sampled: what targets look at.
            tables: all rows as tensors.
            times: when they may be linked to, (T,), microseconds.
            cuts: up to when they are known, (T,), microseconds.
            codes: of those that have a vector of their own, (T,); 0 for others.
        """
        found, _ = self.target(sampled, tables, times, cuts)
        if self.training:
            codes = codes * (torch.rand(len(codes)) >= self._anonymity)
        return found[:, :-1] + self.known(codes), found[:, -1]

    def sources(self, sampled: Sampled, tables: Mapping[str, Encoded], seeds: Seeds) -> tuple[Tensor, Tensor, Met]:
        """Vectors of examples, (B, C), what is known of them, (B, C), and what was reached from them."""
        example = self.source.example(seeds.times, seeds.cuts)
        hidden = self.source.begin(sampled, tables, seeds.times, seeds.cuts, example)
        found, embedded = self.source.hear(sampled, hidden, example)
        if self.way is None:
            nothing = torch.zeros(0, dtype=torch.long)
            return found, embedded, Met(nothing, nothing, torch.zeros(0), torch.zeros(0, HEADS))
        return found, embedded, self.way(sampled, hidden, embedded, self._target)

    def scores(self, vectors: Tensor, met: Met, targets: Tensor, popular: Tensor, columns: Tensor) -> Tensor:
        """Of all pairs, (B, T).

        Args:
            vectors: of the examples, (B, C).
            met: what was reached from them.
            targets: vectors, (T, C).
            popular: how popular each is by itself, (T,).
            columns: where among the targets those that were met stand, (P,); -1 for those that do not.
        """
        seen = columns >= 0
        at, columns = met.at[seen], columns[seen]
        if self.towers:
            weights = softmax(met.weights[seen], at, num_nodes=len(vectors)).unsqueeze(2)
            tastes = self.taste(targets[columns]).view(len(at), HEADS, self._channels // HEADS)
            liked = torch.zeros_like(vectors).index_add(0, at, (weights * tastes).flatten(1))
            scores = (vectors + liked) @ targets.T / self._channels**0.5 + popular
        else:
            scores = popular.repeat(len(vectors), 1)
        found: Tensor = scores.index_put((at, columns), met.scores[seen], accumulate=True)
        return found


class Way(nn.Module):
    """From an entity outwards: what was reached from it, by the ways that led there.

    Args:
        network: whose nodes are passed.
        channels: of each node.
    """

    def __init__(self, network: Network, channels: int) -> None:
        super().__init__()
        self._names, self._links = network.names, network.links
        self._types = ["-".join(kind) for kind in network.edge_types()]
        self.steps = nn.ModuleDict({kind: nn.Linear(channels, channels) for kind in self._types})
        self.count = nn.ModuleDict({kind: nn.Linear(1, channels, bias=False) for kind in self._types})
        self.norm = nn.ModuleDict({name: nn.LayerNorm(channels) for name in self._names.values()})
        self.head = nn.Sequential(nn.Linear(2 * channels, channels), nn.ReLU(), nn.Linear(channels, 1 + HEADS))

    def forward(self, sampled: Sampled, hidden: Mapping[str, Tensor], embedded: Tensor, target: str) -> Met:
        """What was reached of a table.

        Args:
            sampled: the nodes, and the edges that were followed.
            hidden: what nodes know of themselves, by table.
            embedded: what is known of the entities, (B, C).
            target: the table.
        """
        passed = {name: hidden[self._names[name]] for name in sampled.nodes}
        for hop, edges in enumerate(sampled.edges):
            heard: dict[str, Tensor] = {}
            for each in edges:
                link_type = 2 * each.link + int(each.upwards)
                child, parent = self._links[each.link]
                start, end = (child, parent) if each.upwards else (parent, child)
                came = embedded[each.targets] if not hop else passed[start][each.targets]
                kind = self._types[link_type]
                nodes = sampled.nodes[end]
                first, count = nodes.ends[hop], nodes.ends[hop + 1] - nodes.ends[hop]
                places = torch.from_numpy(each.sources - first)
                total = heard.setdefault(end, torch.zeros(count, embedded.shape[1]))
                often = torch.bincount(places, minlength=count).float().unsqueeze(1)
                heard[end] = total.index_add(0, places, self.steps[kind](came)) + self.count[kind](torch.log1p(often))
            for name, total in heard.items():
                nodes = sampled.nodes[name]
                first, last = nodes.ends[hop], nodes.ends[hop + 1]
                before = passed[name]
                reached = torch.relu(self.norm[self._names[name]](before[first:last] + total))
                passed[name] = torch.cat([before[:first], reached, before[last:]])
        nodes = sampled.nodes[target]
        at, rows = nodes.examples, nodes.rows
        reached_first = nodes.ends[0]  # entities themselves are not what they are linked to
        chosen = reached_first + _first_of(at[reached_first:], rows[reached_first:])
        chosen = chosen[nodes.visible[chosen]]
        whom = torch.from_numpy(at[chosen])
        found = self.head(torch.cat([passed[target][chosen], embedded[whom]], 1))
        return Met(whom, torch.from_numpy(rows[chosen]), found[:, 0], found[:, 1:])


def _first_of(at: Ints, rows: Ints) -> Ints:
    """The first place of each pair: the nearest way to it."""
    if not len(at):
        return np.zeros(0, np.int64)
    _, first = np.unique(at * (int(rows.max()) + 1) + rows, return_index=True)
    return np.sort(first)
