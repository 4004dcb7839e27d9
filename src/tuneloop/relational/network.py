"""A heterogeneous GraphSAGE over sampled rows (Hamilton et al. 2017; PyTorch Geometric's layers).

Beside the rows it may read features of an example, both directly and along with what it makes of the rows (Cheng et
al., Wide & Deep Learning for Recommender Systems, 2016).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch_frame import TensorFrame, stype
from torch_frame.nn.encoder import (
    EmbeddingEncoder,
    LinearBucketEncoder,
    LinearEmbeddingEncoder,
    MultiCategoricalEmbeddingEncoder,
    StypeWiseFeatureEncoder,
)
from torch_geometric.nn import HeteroConv, SAGEConv

from tuneloop.relational.encoders import Encoded, TableEncoding
from tuneloop.relational.graph import ALWAYS, Ints
from tuneloop.relational.sampler import Nodes, Sampled

COLUMN_CHANNELS = 8  # of each column, before all of a row are mixed
FEATURE_DROPOUT = 0.5  # there may be hundreds, many of which say nearly the same
_DAY = 86_400_000_000.0
EdgeType = tuple[str, str, str]


class TableEncoder(nn.Module):
    """Rows of a table as vectors."""

    def __init__(self, encoding: TableEncoding, channels: int) -> None:
        super().__init__()
        encoders = {
            stype.numerical: LinearBucketEncoder(),
            stype.categorical: EmbeddingEncoder(),
            stype.multicategorical: MultiCategoricalEmbeddingEncoder(),
            stype.embedding: LinearEmbeddingEncoder(),
        }
        names = encoding.names
        chosen = {kind: each for kind, each in encoders.items() if kind in names}
        self.columns = StypeWiseFeatureEncoder(COLUMN_CHANNELS, encoding.stats, names, chosen)
        self.mix = nn.Linear(COLUMN_CHANNELS * len(encoding.columns), channels)
        # PyTorch Frame starts with numbers that are hardly heard beside categories, which are only noise at first.
        for name, weights in self.columns.named_parameters():
            if "emb" in name:
                nn.init.normal_(weights, std=0.1)
                nn.init.zeros_(weights[0])  # of null
            elif "weight" in name:
                nn.init.normal_(weights, std=0.4)

    def forward(self, frame: TensorFrame) -> Tensor:
        """(N, C)."""
        found, _ = self.columns(frame)
        mixed: Tensor = self.mix(found.flatten(1))
        return mixed


class Clock(nn.Module):
    """Times relative to an example's: how long ago, on scales from short to long.

    Args:
        scales: days, rising.
    """

    def __init__(self, scales: Sequence[float]) -> None:
        super().__init__()
        self.scales: Tensor
        self.register_buffer("scales", torch.tensor(scales, dtype=torch.float32))
        self.size = len(scales) + 2

    def forward(self, moments: Ints, cuts: Ints, times: Ints) -> Tensor:
        """Encodings, (..., size): of an age from the cut-off and from the time, zeros where there is no moment."""
        known = moments != ALWAYS
        safe = np.where(known, moments, 0)
        age = torch.from_numpy(((cuts - safe) / _DAY).astype(np.float32))
        late = torch.from_numpy(((times - safe) / _DAY).astype(np.float32))
        decay = torch.exp(-age.abs().unsqueeze(-1) / self.scales)
        logs = torch.stack([_signed_log(age), _signed_log(late)], -1) / 8.0
        found = torch.cat([decay, logs], -1)
        masked: Tensor = found * torch.from_numpy(known.astype(np.float32)).unsqueeze(-1)
        return masked


def season(moments: Ints) -> Tensor:
    """Sines and cosines of the year and the week, (..., 4)."""
    days = moments / _DAY
    turns = np.stack([days / 365.2425, days / 7.0], -1) % 1.0 * (2 * np.pi)
    return torch.from_numpy(np.concatenate([np.sin(turns), np.cos(turns)], -1).astype(np.float32))


def _signed_log(days: Tensor) -> Tensor:
    return days.sign() * torch.log1p(days.abs())


class Network(nn.Module):
    """From sampled rows to outputs.

    Args:
        encoding: how tables are read.
        links: child and parent of each foreign key.
        entity: the table of whom examples are about.
        scales: days, of times.
        channels: of each node.
        hops: how many layers.
        outputs: how many numbers are predicted.
        dropout: of nodes' channels.
        anonymity: how often in training an entity's own row is hidden: few entities would be known by it.
        features: how many of an example are read beside the rows.
    """

    def __init__(
        self,
        encoding: Mapping[str, TableEncoding],
        links: Sequence[tuple[str, str]],
        entity: str,
        scales: Sequence[float],
        *,
        channels: int,
        hops: int,
        outputs: int,
        dropout: float,
        anonymity: float,
        features: int = 0,
    ) -> None:
        super().__init__()
        #: What a table is called here: tables may be called what modules cannot.
        self.names = {name: f"t{number}" for number, name in enumerate(encoding)}
        self.links = list(links)
        self._entity = entity
        self._anonymity = anonymity
        self.clock = Clock(scales)
        self.rows = nn.ModuleDict(
            {self.names[name]: TableEncoder(each, channels) for name, each in encoding.items() if each.columns}
        )
        context = {
            name: self.clock.size * len(each.moments) + sum(parent == name for _, parent in links) + 1
            for name, each in encoding.items()
        }
        example = len(scales) + 1 + 4
        context[entity] += example
        self.context = nn.ModuleDict({self.names[name]: nn.Linear(size, channels) for name, size in context.items()})
        self.start = nn.ModuleDict({each: nn.LayerNorm(channels) for each in self.names.values()})
        self.layers = nn.ModuleList(
            Layer(self.edge_types(), list(self.names.values()), channels, dropout) for _ in range(hops)
        )
        self.neck = nn.Sequential(
            nn.Linear(channels * (hops + 1) + example, channels), nn.LayerNorm(channels), nn.ReLU(), nn.Dropout(dropout)
        )
        self.head = nn.Linear(channels, outputs)
        self.deep = self.wide = None
        if features:
            self.deep = nn.Sequential(nn.Dropout(FEATURE_DROPOUT), nn.Linear(features, channels))
            direct = nn.Linear(features, outputs)
            nn.init.zeros_(direct.weight)
            self.wide = nn.Sequential(nn.Dropout(FEATURE_DROPOUT), direct)

    def edge_types(self) -> list[EdgeType]:
        """The kinds of edges: of each foreign key downwards and upwards."""
        found = []
        for number, (child, parent) in enumerate(self.links):
            found.append((self.names[child], f"down{number}", self.names[parent]))
            found.append((self.names[parent], f"up{number}", self.names[child]))
        return found

    def forward(
        self, sampled: Sampled, tables: Mapping[str, Encoded], times: Ints, cuts: Ints, features: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Outputs, (B, O), and embeddings, (B, C), of a batch.

        Args:
            sampled: what its examples look at.
            tables: all rows as tensors.
            times: of the examples, (B,), microseconds.
            cuts: of the examples, (B,), microseconds.
            features: of the examples, (B, F).
        """
        example = self.example(times, cuts)
        return self.hear(sampled, self.begin(sampled, tables, times, cuts, example), example, features)

    def begin(
        self, sampled: Sampled, tables: Mapping[str, Encoded], times: Ints, cuts: Ints, example: Tensor
    ) -> dict[str, Tensor]:
        """What each node knows of itself, by table."""
        return {
            self.names[name]: self._begin(name, nodes, tables[name], times, cuts, example)
            for name, nodes in sampled.nodes.items()
        }

    def hear(
        self, sampled: Sampled, hidden: dict[str, Tensor], example: Tensor, features: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Outputs and embeddings of the entities, after what nodes know has come to them."""
        batch = len(example)
        root = self.names[self._entity]
        seen = [hidden[root][:batch]]
        ends = {self.names[name]: nodes.ends for name, nodes in sampled.nodes.items()}
        for number, layer in enumerate(self.layers):
            deepest = len(self.layers) - number  # what is farther than that reaches no entity any more
            edges = self._edges(sampled, deepest)
            targets = {name: hidden[name][: each[deepest - 1]] for name, each in ends.items()}
            hidden = layer(hidden, targets, edges)
            seen.append(hidden[root][:batch])
        known = self.neck[0](torch.cat([*seen, example], 1))
        if features is None or self.deep is None or self.wide is None:
            embedded: Tensor = self.neck[1:](known)
            return self.head(embedded), embedded
        embedded = self.neck[1:](known + self.deep(features))
        return self.head(embedded) + self.wide(features), embedded

    def example(self, times: Ints, cuts: Ints) -> Tensor:
        """How stale what is known is, and the season, (B, E)."""
        stale = torch.from_numpy(((times - cuts) / _DAY).astype(np.float32))
        decay = torch.exp(-stale.unsqueeze(-1) / self.clock.scales)
        return torch.cat([decay, _signed_log(stale).unsqueeze(-1) / 8.0, season(times)], 1)

    def _begin(self, name: str, nodes: Nodes, table: Encoded, times: Ints, cuts: Ints, example: Tensor) -> Tensor:
        """Nodes by what their rows hold, how old they are, and how many rows link to them, (N, C)."""
        at = nodes.examples
        visible = torch.from_numpy(nodes.visible.astype(np.float32)).unsqueeze(1)
        if self.training and name == self._entity:
            visible = visible * (torch.rand(len(at), 1) >= self._anonymity)
        parts = [torch.from_numpy(np.log1p(nodes.counts).astype(np.float32) / 4.0)]
        if table.moments.shape[1]:
            moments = table.moments[np.maximum(nodes.rows, 0)]
            ages = self.clock(moments, cuts[at][:, None], times[at][:, None]).flatten(1)
            parts.append(ages * visible)
        parts.append(visible)
        if name == self._entity:
            parts.append(example[torch.from_numpy(at)] * (torch.arange(len(at)) < len(times)).unsqueeze(1))
        key = self.names[name]
        found = self.context[key](torch.cat(parts, 1))
        if key in self.rows and table.frame is not None and len(at):
            distinct, back = np.unique(np.maximum(nodes.rows, 0), return_inverse=True)
            rows = self.rows[key](table.frame[torch.from_numpy(distinct)])
            found = found + rows[torch.from_numpy(back)] * visible
        return torch.relu(self.start[key](found))

    def _edges(self, sampled: Sampled, deepest: int) -> dict[EdgeType, Tensor]:
        """The edges of the first so many hops, by type."""
        types = self.edge_types()
        found: dict[EdgeType, list[NDArray[np.int64]]] = {}
        for hop in sampled.edges[:deepest]:
            for each in hop:
                kind = types[2 * each.link + int(each.upwards)]
                found.setdefault(kind, []).append(np.stack([each.sources, each.targets]))
        return {kind: torch.from_numpy(np.concatenate(each, 1)) for kind, each in found.items()}


class Layer(nn.Module):
    """One step of messages: the mean of each kind of neighbour, added to what a node knows."""

    def __init__(self, edge_types: Sequence[EdgeType], names: Sequence[str], channels: int, dropout: float) -> None:
        super().__init__()
        self.convs = HeteroConv(
            {kind: SAGEConv((channels, channels), channels, aggr="mean", root_weight=False) for kind in edge_types},
            aggr="sum",
        )
        self.own = nn.ModuleDict({name: nn.Linear(channels, channels) for name in names})
        self.norm = nn.ModuleDict({name: nn.LayerNorm(channels) for name in names})
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, hidden: Mapping[str, Tensor], targets: Mapping[str, Tensor], edges: Mapping[EdgeType, Tensor]
    ) -> dict[str, Tensor]:
        """What the targets know after it, by table."""
        pairs = {kind: (hidden[kind[0]], targets[kind[2]]) for kind in edges}
        heard = self.convs(pairs, dict(edges))
        found = {}
        for name, own in targets.items():
            total = self.own[name](own) + heard[name] if name in heard else self.own[name](own)
            found[name] = own + self.dropout(torch.relu(self.norm[name](total)))
        return found
