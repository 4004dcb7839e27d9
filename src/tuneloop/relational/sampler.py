"""Which rows an example looks at: neighbours of neighbours, none of them dated after its cut-off.

Every choice is a hash of the seed, the entity, the time and the way there, never of a shared random stream: an example
meets the same rows in any batch, whatever happens later.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tuneloop.relational.graph import Graph, Ints, Link

Hashes = NDArray[np.uint64]
Strategy = Literal["last", "uniform"]
# From the second hop on only so many nodes of a table, the first that were reached, lead to rows that link to them.
WIDTH = 2


@dataclass(frozen=True)
class Edges:
    """Edges of one hop: from a node to the one that it was reached from.

    Attributes:
        link: the number of the foreign key.
        upwards: whether it leads from parents to the children they were reached from.
        sources: places among the nodes of the table that was reached, (E,).
        targets: places among the nodes of the table it was reached from, (E,).
    """

    link: int
    upwards: bool
    sources: Ints
    targets: Ints


@dataclass(frozen=True)
class Nodes:
    """The nodes of one table, hop after hop. A row is one node of a hop of an example, however often it was reached.

    Attributes:
        rows: which rows, (N,); -1 for an entity that is not in its table.
        examples: to which examples of the batch they belong, (N,).
        counts: how many rows link to each, by foreign key, all up to the cut-off, (N, L).
        ends: how many nodes there are up to each hop, the entities being hop 0.
        visible: whether each row was known by the cut-off, (N,): an entity's own may not have been.
    """

    rows: Ints
    examples: Ints
    counts: Ints
    ends: tuple[int, ...]
    visible: NDArray[np.bool_]


@dataclass(frozen=True)
class Sampled:
    """What a batch of examples looks at.

    Attributes:
        nodes: by table.
        edges: by hop.
    """

    nodes: dict[str, Nodes]
    edges: tuple[tuple[Edges, ...], ...]


@dataclass(frozen=True)
class _Front:
    """Nodes reached at one hop. `arrived` is the link by which a child was reached; -1 for others."""

    rows: Ints
    examples: Ints
    hashes: Hashes
    arrived: Ints


class Sampler:
    """Samples neighbours.

    Args:
        graph: the rows.
        fan_outs: for each hop, how many rows that link to a node are followed. Rows it links to are all followed.
        strategy: `last` takes the latest rows; `uniform` draws them evenly from all that are known.
    """

    def __init__(self, graph: Graph, fan_outs: Sequence[int], strategy: Strategy) -> None:
        self._graph = graph
        self._fan_outs = tuple(fan_outs)
        self._strategy = strategy
        # Rows of a link as one rising sequence of (parent, row), to be searched at once.
        self._pairs = [
            np.repeat(np.arange(len(link.starts) - 1), np.diff(link.starts)) * (len(graph.tables[link.child]) + 1)
            + link.rows
            for link in graph.links
        ]

    def sample(self, roots: Ints, entities: Hashes, times: Ints, cuts: Ints, *, seed: int) -> Sampled:
        """The neighbourhoods of a batch.

        Args:
            roots: the entities' rows, (B,); -1 for those that are not there.
            entities: a hash of each entity's key, (B,).
            times: when a prediction is made, (B,), microseconds.
            cuts: no row dated later is sampled, (B,), microseconds.
            seed: of all choices.
        """
        graph = self._graph
        limits = {name: np.searchsorted(rows.times, cuts, side="right") for name, rows in graph.tables.items()}
        start = mix(mix(np.full(len(roots), seed, np.uint64), entities), times.view(np.uint64))
        front = {graph.entity: _Front(roots, np.arange(len(roots)), start, np.full(len(roots), -1))}
        fronts: dict[str, list[_Front]] = {name: [] for name in graph.tables}
        counts: dict[str, list[Ints]] = {name: [] for name in graph.tables}
        edges = []
        self._put(fronts, counts, front, limits)
        for hop, fan_out in enumerate(self._fan_outs):
            reached = self._step(front, counts, limits, hop, fan_out)
            offsets = {name: sum(len(each.rows) for each in found) for name, found in fronts.items()}
            before = {name: offsets[name] - len(each.rows) for name, each in front.items()}
            front, found = _merge(reached, before, offsets, graph)
            self._put(fronts, counts, front, limits)
            edges.append(found)
        nodes = {name: _nodes(found, counts[name], limits[name]) for name, found in fronts.items()}
        return Sampled(nodes, tuple(edges))

    def _put(
        self,
        fronts: dict[str, list[_Front]],
        counts: dict[str, list[Ints]],
        front: dict[str, _Front],
        limits: dict[str, Ints],
    ) -> None:
        """Append the nodes of a hop, and how many rows link to each."""
        for name in fronts:
            each = front.get(name, _EMPTY)
            fronts[name].append(each)
            links = [number for number, link in enumerate(self._graph.links) if link.parent == name]
            found = np.zeros((len(each.rows), len(links)), np.int64)
            for column, number in enumerate(links):
                found[:, column] = self._known(number, each, limits)
            counts[name].append(found)

    def _known(self, number: int, front: _Front, limits: dict[str, Ints]) -> Ints:
        """How many rows link to each node, all up to the cut-off."""
        link = self._graph.links[number]
        base = front.rows * (len(self._graph.tables[link.child]) + 1)
        ends = np.searchsorted(self._pairs[number], base + limits[link.child][front.examples])
        return np.where(front.rows >= 0, ends - link.starts[front.rows], 0)

    def _step(
        self, front: dict[str, _Front], counts: dict[str, list[Ints]], limits: dict[str, Ints], hop: int, fan_out: int
    ) -> list[tuple[str, int, bool, _Front, Ints]]:
        """All that is one edge away: table, link, direction, nodes, and the places they were reached from."""
        found: list[tuple[str, int, bool, _Front, Ints]] = []
        for name, nodes in front.items():
            places = self._leading_down(name, nodes, hop)
            downwards = 0
            for number, link in enumerate(self._graph.links):
                if link.child == name:
                    each, at = _up(link, number, nodes, limits[link.parent])
                    found.append((link.parent, number, True, each, at))
                if link.parent == name:
                    known = counts[name][-1][places, downwards]
                    each, at = self._down(link, number, nodes, places, known, fan_out)
                    found.append((link.child, number, False, each, at))
                    downwards += 1
        return found

    def _leading_down(self, name: str, nodes: _Front, hop: int) -> Ints:
        """The nodes whose children are looked at: all entities, later a few of each table and example.

        An event that a row is part of, a race of a result, does not lead to all else that was part of it.
        """
        if hop == 0:
            return np.flatnonzero(nodes.rows >= 0)
        places = _first_few(nodes.examples, WIDTH)
        return places[nodes.arrived[places] >= 0] if self._graph.tables[name].timed else places

    def _down(
        self, link: Link, number: int, nodes: _Front, places: Ints, known: Ints, fan_out: int
    ) -> tuple[_Front, Ints]:
        """Rows that link to nodes, the latest first."""
        taken = np.minimum(known, fan_out)
        at = np.repeat(places, taken)
        position = np.arange(len(at)) - np.repeat(np.cumsum(taken) - taken, taken)
        hashes = mix(mix(nodes.hashes[at], np.uint64(2 * number)), position.astype(np.uint64))
        total, size = np.repeat(known, taken), np.repeat(taken, taken)
        if self._strategy == "uniform":  # one of each of as many equal parts as are taken
            low, high = (size - 1 - position) * total // size, (size - position) * total // size
            chosen = low + (hashes % (high - low).astype(np.uint64)).astype(np.int64)
        else:
            chosen = total - 1 - position
        rows = link.rows[link.starts[nodes.rows[at]] + chosen]
        return _Front(rows, nodes.examples[at], hashes, np.full(len(at), number)), at


_EMPTY = _Front(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.uint64), np.zeros(0, np.int64))


def mix(left: Hashes, right: Hashes | np.uint64) -> Hashes:
    """A hash of two, by splitmix64 (Steele, Lea and Flood 2014)."""
    z = left * np.uint64(0x9E3779B97F4A7C15) + right + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _up(link: Link, number: int, nodes: _Front, limits: Ints) -> tuple[_Front, Ints]:
    """The rows that nodes link to, where they were known; not those that they were reached from."""
    parents = np.where(nodes.rows >= 0, link.parents[nodes.rows], -1)
    seen = (parents >= 0) & (parents < limits[nodes.examples]) & (nodes.arrived != number)
    at = np.flatnonzero(seen)
    hashes = mix(nodes.hashes[at], np.uint64(2 * number + 1))
    return _Front(parents[at], nodes.examples[at], hashes, np.full(len(at), -1)), at


def _first_few(examples: Ints, most: int) -> Ints:
    """The first so many nodes of each example, in their order."""
    order = np.argsort(examples, kind="stable")
    ordered = examples[order]
    ranks = np.arange(len(order)) - np.searchsorted(ordered, ordered)
    return np.sort(order[ranks < most])


def _merge(
    reached: list[tuple[str, int, bool, _Front, Ints]], before: dict[str, int], offsets: dict[str, int], graph: Graph
) -> tuple[dict[str, _Front], tuple[Edges, ...]]:
    """The nodes of the next hop, each once, and the edges from them."""
    front: dict[str, _Front] = {}
    edges: list[Edges] = []
    for name in dict.fromkeys(each[0] for each in reached):
        parts = [each for each in reached if each[0] == name and len(each[4])]
        if not parts:
            continue
        rows = np.concatenate([part[3].rows for part in parts])
        examples = np.concatenate([part[3].examples for part in parts])
        _, first, inverse = np.unique(examples * len(graph.tables[name]) + rows, return_index=True, return_inverse=True)
        order = np.argsort(first)
        places = np.empty(len(order), np.int64)
        places[order] = np.arange(len(order))
        chosen, sources = first[order], places[inverse] + offsets[name]
        hashes = np.concatenate([part[3].hashes for part in parts])
        arrived = np.concatenate([part[3].arrived for part in parts])
        front[name] = _Front(rows[chosen], examples[chosen], hashes[chosen], arrived[chosen])
        start = 0
        for _, number, upwards, each, at in parts:
            link = graph.links[number]
            target = before[link.child if upwards else link.parent]
            edges.append(Edges(number, upwards, sources[start : start + len(each.rows)], at + target))
            start += len(each.rows)
    return front, tuple(edges)


def _nodes(fronts: list[_Front], counts: list[Ints], limits: Ints) -> Nodes:
    rows = np.concatenate([each.rows for each in fronts])
    examples = np.concatenate([each.examples for each in fronts])
    ends = tuple(np.cumsum([len(each.rows) for each in fronts]).tolist())
    visible = (rows >= 0) & (rows < limits[examples]) if len(examples) else np.zeros(0, bool)
    return Nodes(rows, examples, np.concatenate(counts), ends, visible)
