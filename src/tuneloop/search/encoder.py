"""From rows of the token table to unit-length embeddings, through one text encoder or two."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn
from torch.nn.functional import normalize
from transformers import PreTrainedModel

from tuneloop.search.cache import PrefixCache, on_disk
from tuneloop.search.fused import FusedEncoder
from tuneloop.search.halves import NotFusible
from tuneloop.search.layers import BOTTOM, Depth, LayerStack
from tuneloop.search.model import SIDES, encoder_modules
from tuneloop.search.tokens import TokenTable

Precision = Literal["auto", "bf16", "fp32"]
Check = Callable[[], None]
# Tokens that one forward pass takes: enough to keep the matrix units busy, few enough to stay in the caches.
GROUP_TOKENS = {"cpu": 2048, "cuda": 32768}
# A pass may end early rather than pad texts to more than this times their length.
MAX_PADDING = 1.2
# Texts that are embedded at once where nothing is learnt from them.
PORTION = 8192
# A faster way of computing must give the model's own embeddings: the least cosine of both.
MIN_COSINE = 0.999


def native_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 matrices itself: emulation would be slower than fp32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    checks = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    mkldnn: Any = torch.backends.mkldnn
    return mkldnn.is_available() and any(check is not None and check() for check in checks)


class Encoder:
    """Encodes texts of a token table with the model, and lets parts of the model be trained.

    Args:
        model: a sentence-transformers model; trained in place.
        tokens: the texts.
        precision: what the layers compute in; weights, optimiser and embeddings are fp32 always.
    """

    def __init__(self, model: SentenceTransformer, tokens: TokenTable, *, precision: Precision = "auto") -> None:
        self.model = model
        self.tokens = tokens
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.bf16 = precision == "bf16" or (precision == "auto" and native_bf16(self.device))
        self.modules: dict[str, nn.Module] = encoder_modules(model)
        self.two = self.modules["query"] is not self.modules["document"]
        self.stacks = {side: LayerStack(module, partial(self._forward, side)) for side, module in self.modules.items()}
        self.depth = BOTTOM
        self._replay: dict[str, Callable[[dict[str, Any], Tensor], Tensor]] = {}
        self._hidden: Tensor | None = None
        self._fixed: dict[str, tuple[Tensor, nn.Module]] = {}
        self._exits = ExitStack()
        # Without dropout: the same text has the same embedding wherever it stands, and steps are faster.
        model.to(self.device).eval()
        if self.bf16 and self.device.type == "cpu":
            self._use_plain_attention()
        self._fused = {side: self._fuse(side) for side in (SIDES if self.two else SIDES[1:])}
        if not self.two:
            self._fused["query"] = self._fused["document"]

    def encode(self, rows: NDArray[np.int64], *, max_length: int | None = None, check: Check = lambda: None) -> Tensor:
        """Unit-length embeddings (B, d) float32 of distinct rows, in their order; with gradients where enabled.

        At most `max_length` tokens of each text are read. `check` is called between forward passes and may raise.
        """
        parts, places = [], []
        for side, chosen in self._sides(rows):
            if side in self._fixed:
                check()
                embeddings, head = self._fixed[side]
                part = head(embeddings[torch.from_numpy(rows[chosen] - self._first(side))].to(self.device))
            elif (fused := self._fused[side]) is not None:
                part = fused.encode(
                    self.tokens,
                    rows[chosen],
                    side,
                    depth=self.depth,
                    hidden=self._hidden,
                    max_length=max_length,
                    check=check,
                )
            else:
                part, chosen = self._encode_padded(rows, side, chosen, max_length, check)
            parts.append(self._truncated(part))
            places.append(chosen)
        if not parts:
            return torch.zeros(0, self.model.get_embedding_dimension() or 0, device=self.device)
        back = np.argsort(np.concatenate(places))
        return normalize(torch.cat([part.float() for part in parts]), dim=1)[torch.from_numpy(back).to(self.device)]

    def _encode_padded(
        self,
        rows: NDArray[np.int64],
        side: str,
        chosen: NDArray[np.int64],
        max_length: int | None,
        check: Check,
    ) -> tuple[Tensor, NDArray[np.int64]]:
        """Embeddings by the model's own code, of padded texts of similar length, and which texts they are of."""
        parts, places = [], []
        for group in self._groups(rows, chosen, max_length):
            check()
            places.append(group)
            features, place = self._features(rows[group], side, max_length)
            if self._hidden is None:
                parts.append(self._forward(side, features))
            else:
                hidden = self._hidden.index_select(0, place.flatten()).view(*place.shape, -1).to(self.device)
                parts.append(self._replay[side](features, hidden if self.bf16 else hidden.float()))
        return torch.cat([part.float() for part in parts]), np.concatenate(places)

    def portions(
        self, rows: NDArray[np.int64], *, max_length: int | None = None, check: Check = lambda: None
    ) -> Iterator[tuple[slice, Tensor]]:
        """What `encode` gives for any number of rows, some after others: without gradients and on the CPU.

        Yields which of the rows, at least once, and their embeddings (b, d) float32.
        """
        for start in range(0, max(len(rows), 1), PORTION):
            place = slice(start, start + PORTION)
            with torch.no_grad():
                part = self.encode(rows[place], max_length=max_length, check=check).cpu()
            yield place, part

    def embed(self, rows: NDArray[np.int64], *, folder: Path | None = None, check: Check = lambda: None) -> Tensor:
        """The embeddings (B, d) float32 of any number of rows, in their order, without gradients and on the CPU.

        They lie in a file without a name in `folder`, or in memory without one.
        """
        found = torch.empty(0)
        for place, part in self.portions(rows, check=check):
            if not place.start:
                shape = len(rows), part.shape[1]
                found = torch.empty(shape) if folder is None else on_disk(folder, shape, np.dtype(np.float32))
            found[place] = part
        return found

    def embed_side(self, side: str, *, folder: Path | None = None, check: Check = lambda: None) -> Tensor:
        """What `embed` gives of all texts of one side, (N, d)."""
        first = self._first(side)
        rows = np.arange(first, self.tokens.queries if side == "query" else len(self.tokens))
        return self.embed(rows, folder=folder, check=check)

    def fix_side(self, side: str, embeddings: Tensor, head: nn.Module | None = None) -> None:
        """Take the embeddings of one of two sides, before `head` if any, as given; only `head` is trained on it.

        To be called before `fix_layers`.
        """
        for parameter in self.modules[side].parameters():
            parameter.requires_grad_(False)
        if head is not None:
            head.requires_grad_(True)
        self._fixed[side] = embeddings, head or nn.Identity()

    def fix_layers(
        self, layers: int, cache: PrefixCache | None = None, *, attention: bool = False, check: Check = lambda: None
    ) -> Depth:
        """Train only what is above the first `layers`, through the cache where that gives the same embeddings.

        Args:
            layers: how many to fix; at least one is trained.
            cache: what is below, which must have been filled, if at all, by the same weights.
            attention: whether to fix that of the lowest trained layer as well, where other layers are fixed and the
                layer is one of BERT's.
            check: called between forward passes; may raise.

        Returns:
            Up to where the model is fixed: nowhere when it has no stack of layers, or there are no texts.
        """
        self._stop_replay()
        sides = self._encoded_sides()
        if not len(self.tokens) or not sides:
            return BOTTOM
        depth = min(self.stacks[side].depth(layers, attention=attention) for side in sides)
        rows = {"query": np.arange(min(1, self.tokens.queries)), "document": np.arange(len(self.tokens))[-1:]}
        for side in sides:
            features, _ = self._features(rows[side] if len(rows[side]) else np.arange(1), side)
            try:
                self.stacks[side].freeze_below(features, depth)
            except TypeError:  # no plain stack of layers: all of them are trained
                for other in sides:
                    self.stacks[other].freeze_below(features, BOTTOM)
                return BOTTOM
        self.depth = depth
        if depth != BOTTOM and cache is not None and self._can_replay(depth):
            width = self._below(sides[-1], np.arange(len(self.tokens))[-1:]).shape[-1]
            build = partial(self._fill, check=check)
            hidden = cache.get(depth, tokens=int(self.tokens.starts[-1]), width=width, build=build)
            if hidden is not None:
                self._start_replay(hidden)
        return depth

    def parameter_groups(
        self, *, query_lr: float, items_lr: float, query_weight_decay: float, items_weight_decay: float
    ) -> list[dict[str, Any]]:
        """What to train, for AdamW. One encoder for both sides learns at the geometric means of both sides' values."""
        if not self.two:
            lr, decay = (query_lr * items_lr) ** 0.5, (query_weight_decay * items_weight_decay) ** 0.5
            wanted = [(self.modules["document"], lr, decay)]
        else:
            wanted = [
                (self.modules["document"], items_lr, items_weight_decay),
                (self.modules["query"], query_lr, query_weight_decay),
            ]
        seen: set[int] = set()
        groups = []
        for module, lr, decay in wanted:
            new = [each for each in module.parameters() if each.requires_grad and id(each) not in seen]
            seen.update(map(id, new))
            groups.append({"params": new, "lr": lr, "weight_decay": decay})
        return groups

    def trained(self) -> dict[str, nn.Parameter]:
        """All parameters that are being trained."""
        return {name: each for name, each in self.model.named_parameters() if each.requires_grad}

    def trained_state(self) -> dict[str, Tensor]:
        """A copy of them."""
        return {name: each.detach().clone() for name, each in self.trained().items()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Put such a copy back."""
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                if name in state:
                    parameter.copy_(state[name])

    @contextmanager
    def holding(self, state: dict[str, Tensor]) -> Iterator[None]:
        """Within this context the trained parameters have these values."""
        trained = self.trained_state()
        self.load_state(state)
        try:
            yield
        finally:
            self.load_state(trained)

    def release(self) -> None:
        """Leave the model as plain clients expect it: no replay, and no reference to what was computed before."""
        self._stop_replay()
        self._fixed = {}

    # -- one forward pass

    def _forward(self, side: str, features: dict[str, Any]) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            output: Tensor = self.model(dict(features), task=side)["sentence_embedding"]
        return output

    def _truncated(self, embeddings: Tensor) -> Tensor:
        return embeddings if self.model.truncate_dim is None else embeddings[:, : self.model.truncate_dim]

    def _below(self, side: str, rows: NDArray[np.int64]) -> Tensor:
        features, _ = self._features(rows, side)
        with torch.no_grad():
            return self.stacks[side].below(features, self.depth)

    def _encoded_sides(self) -> list[str]:
        """The sides that an encoder of their own encodes; `document` stands for both where there is one encoder."""
        return [side for side in (SIDES if self.two else SIDES[1:]) if side not in self._fixed]

    def _first(self, side: str) -> int:
        """The first row of a side."""
        return 0 if side == "query" else self.tokens.queries

    def _to_device(self, value: Any) -> Any:
        return value.to(self.device) if isinstance(value, Tensor) else value

    def _features(
        self, rows: NDArray[np.int64], side: str, max_length: int | None = None
    ) -> tuple[dict[str, Any], Tensor]:
        """What `TokenTable.batch` gives, the features on the device."""
        features, place = self.tokens.batch(rows, side, max_length=max_length)
        return {key: self._to_device(value) for key, value in features.items()}, place

    def _sides(self, rows: NDArray[np.int64]) -> Iterator[tuple[str, NDArray[np.int64]]]:
        """Indices into `rows` of each side; `document` stands for both where they are encoded alike."""
        is_query = rows < self.tokens.queries
        if not self.two and self.tokens.extras["query"] == self.tokens.extras["document"]:
            is_query = np.zeros(len(rows), bool)
        for side, chosen in zip(SIDES, (np.flatnonzero(is_query), np.flatnonzero(~is_query)), strict=True):
            if len(chosen):
                yield side, chosen

    def _groups(
        self, rows: NDArray[np.int64], chosen: NDArray[np.int64], max_length: int | None = None
    ) -> Iterator[NDArray[np.int64]]:
        """Those of the chosen indices into `rows` that are of similar length, for one forward pass each."""
        budget = GROUP_TOKENS[self.device.type]
        lengths = np.minimum(self.tokens.lengths[rows[chosen]], max_length or np.iinfo(np.int64).max)
        order = np.argsort(lengths, kind="stable")[::-1]
        start = 0
        while start < len(order):
            longest = max(int(lengths[order[start]]), 1)
            end = min(start + max(budget // longest, 1), len(order))
            too_short = np.flatnonzero(lengths[order[start:end]] * MAX_PADDING < longest)
            if len(too_short) and too_short[0] * longest * 4 >= budget:
                end = start + int(too_short[0])
            yield chosen[order[start:end]]
            start = end

    # -- the layers below

    def _fill(self, hidden: Tensor, *, check: Check) -> None:
        rows = np.arange(len(self.tokens))
        for side, chosen in self._sides(rows):
            if side in self._fixed:
                continue
            if (fused := self._fused[side]) is not None:
                fused.fill(hidden, self.tokens, rows[chosen], side, depth=self.depth, check=check)
                continue
            for group in self._groups(rows, chosen):
                check()
                features, place = self.tokens.batch(group, side)
                real = features["attention_mask"].bool()
                hidden[place[real]] = self._below(side, group)[real.to(self.device)].to("cpu", torch.bfloat16)

    def _start_replay(self, hidden: Tensor) -> None:
        self._hidden = hidden
        for side in self._encoded_sides():
            if self._fused[side] is None:
                self._replay[side] = self._exits.enter_context(self.stacks[side].replay(self.depth))
        if not self.two and self._replay:
            self._replay["query"] = self._replay["document"]

    def _stop_replay(self) -> None:
        self._exits.close()
        self._replay, self._hidden, self.depth = {}, None, BOTTOM

    def _can_replay(self, depth: Depth) -> bool:
        """Whether hidden states of texts by themselves, replayed in one padded batch, give the usual embeddings."""
        for side in SIDES:
            rows = self._probes(side)
            if side in self._fixed or self._fused[side] is not None or self.tokens.flat or not len(rows):
                continue
            features, place = self._features(rows, side)
            real = features["attention_mask"].bool()
            with torch.no_grad():
                expected = self._forward(side, features).float()
                hidden = torch.cat([self._below(side, rows[[at]])[0] for at in range(len(rows))])
                padded = torch.zeros(*place.shape, hidden.shape[-1], dtype=hidden.dtype, device=self.device)
                padded[real] = hidden
                with self.stacks[side].replay(depth) as replay:
                    found = replay(features, padded).float()
            if torch.cosine_similarity(expected, found).min() < MIN_COSINE:
                return False
        return True

    def _fuse(self, side: str) -> FusedEncoder | None:
        """The faster form of a side's encoder: on a CPU, where the model has BERT's layers and embeddings agree."""
        rows = self._probes(side)
        if self.device.type != "cpu" or self.tokens.flat or not len(rows):
            return None
        try:
            fused = FusedEncoder(self.modules[side], torch.bfloat16 if self.bf16 else torch.float32)
            with torch.no_grad():
                found = fused.encode(self.tokens, rows, side)
                expected = self._forward(side, self._features(rows, side)[0]).float()
        except (NotFusible, AttributeError, KeyError, RuntimeError, TypeError, ValueError):
            return None
        return fused if torch.cosine_similarity(expected, found).min() >= MIN_COSINE else None

    def _probes(self, side: str) -> NDArray[np.int64]:
        """A short, a middling and a long text of a side."""
        rows = (
            np.arange(len(self.tokens))[self._first(side) :] if side == "document" else np.arange(self.tokens.queries)
        )
        rows = rows[np.argsort(self.tokens.lengths[rows], kind="stable")]
        return np.unique(rows[[0, len(rows) // 2, -1]]) if len(rows) else rows

    def _use_plain_attention(self) -> None:
        """Attention as three products: in bfloat16 on a CPU twice as fast to train as PyTorch's fused kernel."""
        for module in self.model.modules():
            if isinstance(module, PreTrainedModel):
                module.set_attn_implementation("eager")
