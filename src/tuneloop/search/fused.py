"""BERT's layers written out, forward and backward, over tokens without padding: what the model's own code computes, in
fewer passes over memory, each core with texts of its own.

On a CPU that is several times as fast to train as the modules are: no padding, no mask, no conversion between bfloat16
and fp32 around each operation, one product for query, key and value, and no thread waits for another within a layer.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers.sentence_transformer.modules import Pooling
from torch import Tensor, nn

from tuneloop.search.halves import Half, Left, NotFusible, Weights, halves_of
from tuneloop.search.lanes import Lanes
from tuneloop.search.layers import BOTTOM, Depth, find_layers
from tuneloop.search.passes import PASS_TOKENS, Pass, Source, cut, extend, split
from tuneloop.search.products import EightBitProduct, WatchedProduct
from tuneloop.search.tokens import TokenTable, places

# Tokens that are in memory at once when nothing is learnt from them.
PORTION_TOKENS = 32768
LANE_ROWS = 128
Check = Callable[[], None]


class FusedEncoder:
    """A text encoder of BERT's layers, as `TokenTable` rows to embeddings.

    Args:
        module: the encoder: a transformer and what comes after it, such as pooling.
        dtype: what the layers compute in; gradients and embeddings are fp32.
        fixed: whether the weights stay as they are, so that they are made ready once.

    Raises:
        NotFusible: the encoder has other layers.
    """

    def __init__(self, module: nn.Module, dtype: torch.dtype, *, fixed: bool = False) -> None:
        transformer, *self._tail = module.children()
        self._dtype = dtype
        try:
            self._embeddings: Any = transformer.model.embeddings  # type: ignore[union-attr]
            self._halves = [half for layer in find_layers(module) for half in halves_of(layer)]
        except AttributeError as error:
            raise NotFusible(str(error)) from error
        if not self._halves:
            raise NotFusible("there are no layers")
        self._tail_parameters = [parameter for each in self._tail for parameter in each.parameters()]
        self._ready = {half: half.weights(dtype) for half in self._halves} if fixed else {}

    def encode(
        self,
        tokens: TokenTable,
        rows: NDArray[np.int64],
        side: str,
        *,
        depth: Depth = BOTTOM,
        hidden: Tensor | None = None,
        max_length: int | None = None,
        check: Check = lambda: None,
    ) -> Tensor:
        """Embeddings (B, d) float32 of rows, not yet of unit length; with gradients where enabled.

        Args:
            tokens: the texts.
            rows: which of them.
            side: what they are.
            depth: up to where nothing is trained.
            hidden: the hidden states above these of all tokens of the table, (T, H), when they are known.
            max_length: tokens of a text to read, at most.
            check: called between forward passes without gradients; may raise.
        """
        lengths = np.minimum(tokens.lengths[rows], max_length or np.iinfo(np.int64).max)
        order = np.argsort(-lengths, kind="stable")
        learning = torch.is_grad_enabled()
        if learning:  # each core gets long texts and short ones
            hands = _count(int(lengths.sum()))
            order = np.concatenate([order[hand::hands] for hand in range(hands)])
        found = []
        for part in split(lengths[order], np.inf if learning else PORTION_TOKENS):
            check()
            chosen = rows[order[part.texts]]
            states: Tensor | None = None
            if hidden is not None:
                source = self._known(hidden, tokens, chosen)
            elif learning and depth == BOTTOM:
                states = self._embed(tokens, chosen, side, part.lengths)
                source = _sliced(states.detach())
            else:
                source = self._below(tokens, chosen, side, depth)
            run = _Run(self, part.lengths, self._halves[depth.halves :], tokens.extras[side], dealt=learning)
            if learning:
                parameters = [each for half in run.halves for each in half.parameters] + self._tail_parameters
                found.append(_Learn.apply(run, source, states, *parameters))  # type: ignore[no-untyped-call]
            else:
                found.append(run.forward(source, learning=False))
        back = torch.from_numpy(np.argsort(order))
        return torch.cat(found)[back] if found else torch.zeros(0, 0)

    def use_eight_bits(self, tokens: TokenTable, rows: NDArray[np.int64], side: str) -> None:
        """Compute most products of a fixed encoder in eight bits from now on, for texts like these."""
        for weights in self._ready.values():
            weights.change(WatchedProduct)
        with torch.no_grad():
            self.encode(tokens, rows, side)
        for weights in self._ready.values():
            weights.change(EightBitProduct)

    def fill(
        self,
        hidden: Tensor,
        tokens: TokenTable,
        rows: NDArray[np.int64],
        side: str,
        *,
        depth: Depth,
        check: Check = lambda: None,
    ) -> None:
        """Write the hidden states at a depth of all tokens of rows to their places in (T, H)."""
        order = np.argsort(-tokens.lengths[rows], kind="stable")
        for part in split(tokens.lengths[rows[order]], PORTION_TOKENS):
            check()
            chosen = rows[order[part.texts]]
            run = _Run(self, part.lengths, self._halves[: depth.halves], {}, tail=False)
            states = run.forward(self._below(tokens, chosen, side, BOTTOM), learning=False)
            hidden[_places(tokens, chosen, part.lengths)] = states.to(hidden.dtype)

    def _known(self, hidden: Tensor, tokens: TokenTable, rows: NDArray[np.int64]) -> Source:
        """Hidden states that were computed before."""
        return lambda part: hidden[_places(tokens, rows[part.texts], part.lengths)].to(self._dtype)

    def _below(self, tokens: TokenTable, rows: NDArray[np.int64], side: str, depth: Depth) -> Source:
        """The hidden states at a depth, computed pass by pass."""
        halves = self.weights(self._halves[: depth.halves])

        def states(part: Pass) -> Tensor:
            found = extend(self._embed(tokens, rows[part.texts], side, part.lengths), part.rows)
            for half in halves:
                found, _ = half.forward(found, part, None)
            return found

        return states

    def _embed(self, tokens: TokenTable, rows: NDArray[np.int64], side: str, lengths: NDArray[np.int64]) -> Tensor:
        """What enters the first layer, (T, H)."""
        features, _ = tokens.batch(rows, side, max_length=int(lengths.max(initial=1)))
        named = {name: features[name] for name in ("input_ids", "token_type_ids") if name in features}
        states: Tensor = self._embeddings(**named)
        return states[features["attention_mask"].bool()].to(self._dtype)

    def weights(self, halves: Sequence[Half]) -> list[Weights]:
        """What a pass through some of the layers computes with."""
        return [self._ready.get(half) or half.weights(self._dtype) for half in halves]

    def finish(self, states: Tensor, lengths: NDArray[np.int64], extras: dict[str, Any]) -> Tensor:
        """What comes after the layers: hidden states (T, H) of texts to embeddings (B, d), float32."""
        if self._tail and isinstance(self._tail[0], Pooling):
            texts = torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)]))
            features = {**extras, "token_embeddings": states[None], "cu_seq_lens_q": texts}
        else:
            longest = int(lengths.max(initial=1))
            real = torch.from_numpy(np.arange(longest)[None, :] < lengths[:, None])
            padded = states.new_zeros(len(lengths) * longest, states.shape[1])
            padded = padded.index_copy(0, torch.from_numpy(np.flatnonzero(real.numpy())), states)
            features = {**extras, "token_embeddings": padded.view(*real.shape, -1), "attention_mask": real.long()}
        for module in self._tail:
            features = module(features)
        embeddings: Tensor = features["sentence_embedding"]
        return embeddings


class _Run:
    """Some layers over some texts, forward and, if asked for, backward: each core has texts of its own."""

    def __init__(
        self,
        encoder: FusedEncoder,
        lengths: NDArray[np.int64],
        halves: Sequence[Half],
        extras: dict[str, Any],
        *,
        tail: bool = True,
        dealt: bool = False,
    ) -> None:
        self.halves = halves
        self._encoder = encoder
        self._extras = extras
        self._tail = tail
        self._weights = encoder.weights(halves)
        self._lanes = _lanes(torch.get_num_threads())
        count = _count(int(lengths.sum()))
        if dealt:
            self._passes = list(cut(lengths, [len(range(hand, len(lengths), count)) for hand in range(count)]))
        else:
            self._passes = list(split(lengths, max(lengths.sum() / count, 1.0)))
        self._learning: list[_Lane] = []

    def forward(self, source: Source, *, learning: bool) -> Tensor:
        """Hidden states (T, H) to embeddings (B, d), or without a tail to hidden states (T, H)."""
        if not learning:
            return torch.cat(list(self._lanes.map(lambda part: self._forward(source, part), self._passes)))
        # The same passes on the same core each time: sums of the same numbers in the same order.
        count = min(self._lanes.count, len(self._passes))
        self._learning = [_Lane(range(first, len(self._passes), count), self._passes) for first in range(count)]
        found: list[Tensor] = [torch.empty(0)] * len(self._passes)

        def work(lane: _Lane) -> None:
            for weights in self._weights:
                lane.kept.append([])
                lane.room.append(weights.room(lane.rows, lane.filled))
            for place, part, rows in lane:
                found[place] = self._forward(source, part, lane, rows)

        list(self._lanes.map(work, self._learning))
        return torch.cat(found)

    def _forward(self, source: Source, part: Pass, lane: _Lane | None = None, rows: slice = slice(0)) -> Tensor:
        with torch.no_grad():  # which is a matter of the thread
            states = extend(source(part), part.rows)
            for place, weights in enumerate(self._weights):
                room = None if lane is None else lane.room[place][rows]
                states, kept = weights.forward(states, part, room)
                if lane is not None:
                    lane.kept[place].append(kept)
        states = states[: part.tokens.stop - part.tokens.start]
        if not self._tail:
            return states
        states = states.float().requires_grad_(lane is not None)
        with torch.set_grad_enabled(lane is not None):
            embeddings = self._encoder.finish(states, part.lengths, self._extras)
        if lane is not None:
            lane.ends.append((states, embeddings))
        return embeddings.detach().float()

    def backward(self, gradient: Tensor, *, states_too: bool) -> tuple[Tensor | None, list[Tensor]]:
        """From the gradient of the embeddings to those of the hidden states, if wanted, and of all parameters."""
        below: list[Tensor] = [torch.empty(0)] * len(self._passes)

        def work(lane: _Lane) -> list[Tensor]:
            states, tail = self._tail_backward(gradient, lane)
            found = []
            left: dict[int, Left] = {}  # attention shares it with attention
            for place in reversed(range(len(self.halves))):
                found.append(self._half_backward(place, states, lane, left, bool(place) or states_too))
            for (place, part, _), each in zip(lane, states, strict=True):
                below[place] = each[: part.tokens.stop - part.tokens.start]
            return [each for gradients in reversed(found) for each in gradients] + tail

        total: list[Tensor] = []
        for found in self._lanes.map(work, self._learning):
            _add(total, found)
        self._learning = []
        rest = iter(total)
        gradients = [each for half in self.halves for each in half.gradients(list(itertools.islice(rest, 6)))]
        return torch.cat(below) if states_too else None, [*gradients, *rest]

    def _tail_backward(self, gradient: Tensor, lane: _Lane) -> tuple[list[Tensor], list[Tensor]]:
        """What comes after the layers: gradients of each pass's hidden states (rows, H), and of the tail's weights."""
        trained = [each for each in self._encoder._tail_parameters if each.requires_grad]
        below: list[Tensor] = []
        total: list[Tensor] = []
        for (_, part, _), (states, embeddings) in zip(lane, lane.ends, strict=True):
            own = gradient[part.texts].to(embeddings.dtype)
            states_gradient, *found = torch.autograd.grad(embeddings, [states, *trained], own)
            below.append(extend(states_gradient.to(self._encoder._dtype), part.rows))
            _add(total, list(found))
        return below, total

    def _half_backward(
        self, place: int, states: list[Tensor], lane: _Lane, left: dict[int, Left], below_too: bool
    ) -> list[Tensor]:
        """Half a layer of a lane: its passes' gradients (rows, H) are replaced by those of its input, if wanted."""
        weights = self._weights[place]
        norms: list[Tensor] = []
        with torch.no_grad():
            if weights.inner not in left:
                left[weights.inner] = Left(weights, lane.rows, lane.filled)
            for number, (_, part, rows) in enumerate(lane):
                kept, lane.kept[place][number] = lane.kept[place][number], None
                found, norm = weights.backward(states[number], part, kept, left[weights.inner].of(rows), below_too)
                _add(norms, norm)
                if found is not None:
                    states[number] = found
            return weights.gradients(left[weights.inner], lane.room[place], norms)


class _Lane:
    """The passes of one core, and what they keep for the way back.

    Args:
        places: which passes.
        passes: of all.

    Attributes:
        rows, filled: of the passes, one after the other: as many as make an even product, and those of the passes.
        room: of each half layer, what its passes write to together; see `Weights.room`.
        kept: of each half layer, what each pass keeps.
        ends: of each pass, the hidden states above the layers, and the embeddings.
    """

    def __init__(self, places: range, passes: list[Pass]) -> None:
        self._passes: list[tuple[int, Pass, slice]] = []
        rows = 0
        for place in places:
            self._passes.append((place, passes[place], slice(rows, rows + passes[place].rows)))
            rows += passes[place].rows
        self.rows, self.filled = -(-rows // LANE_ROWS) * LANE_ROWS, rows
        self.room: list[Tensor] = []
        self.kept: list[list[Any]] = []
        self.ends: list[tuple[Tensor, Tensor]] = []

    def __iter__(self) -> Iterator[tuple[int, Pass, slice]]:
        """Which of all passes, the pass, and its rows among those of the lane."""
        return iter(self._passes)


class _Learn(torch.autograd.Function):
    """A run as one operation of PyTorch's: parameters, and the hidden states if they are learnt, to embeddings."""

    @staticmethod
    def forward(context: Any, run: _Run, source: Source, states: Tensor | None, *parameters: Tensor) -> Tensor:
        context.run = run
        return run.forward(source, learning=True)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Any:
        states, gradients = context.run.backward(gradient, states_too=context.needs_input_grad[2])
        found = iter(gradients)
        # A run gives no gradient for what comes after the layers and is not trained.
        tail = 3 + sum(len(half.parameters) for half in context.run.halves)
        wanted = (place < tail or want for place, want in enumerate(context.needs_input_grad[3:], 3))
        return None, None, states, *(next(found) if want else None for want in wanted)


def _add(total: list[Tensor], found: list[Tensor]) -> None:
    """Add up gradients, in fp32 whatever they were computed in."""
    if not total:
        total += [each.float() for each in found]
        return
    for each, more in zip(total, found, strict=True):
        each.add_(more)


def _count(tokens: int) -> int:
    """Forward passes for so many tokens: as many for each core."""
    lanes = _lanes(torch.get_num_threads()).count
    return max(-(-tokens // (PASS_TOKENS * lanes)), 1) * lanes


def _sliced(states: Tensor) -> Source:
    return lambda part: states[part.tokens]


def _places(tokens: TokenTable, rows: NDArray[np.int64], lengths: NDArray[np.int64]) -> Tensor:
    """Where in the table the tokens of rows lie, one after the other."""
    return torch.from_numpy(places(tokens.starts, rows, lengths))


@cache
def _lanes(count: int) -> Lanes:
    """The threads of this process."""
    return Lanes(count)
