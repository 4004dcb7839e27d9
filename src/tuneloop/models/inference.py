"""Embed, rank and predict with registered models. Nothing heavy is imported before a model is first used."""

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tuneloop.errors import InvalidInput
from tuneloop.models.cache import ModelCache
from tuneloop.models.encoders import Encoder, Kind, Vectors
from tuneloop.models.loading import need_encoder, need_table_model
from tuneloop.models.registry import ModelRegistry

if TYPE_CHECKING:
    from tuneloop.relational.model import TableModel

MAX_REMEMBERED = 1000


class Inference:
    """Serves the models of a registry that Tuneloop's runs stored, and no others.

    Args:
        registry: where the models are registered.
        folder: for the downloaded models, a folder of its own.
        capacity: models kept, on disk as in memory; the least recently used go.
        remember_seconds: how long a version number is believed to stand for the same model without asking again.
    """

    def __init__(
        self, registry: ModelRegistry, folder: Path, *, capacity: int = 4, remember_seconds: float = 5
    ) -> None:
        self._registry = registry
        self._cache = ModelCache(registry.tracking, registry.stored, folder, capacity=capacity)
        self._remember_seconds = remember_seconds
        self._lock = threading.Lock()
        self._known: dict[tuple[str, str], tuple[str, float]] = {}  # (name, version): run, until

    def embed(self, name: str, version: str, texts: Sequence[str], kind: Kind) -> tuple[Vectors, str]:
        """Embeddings of unit length, float32 (n, dimensions), in the order of the texts, and `name/version`.

        Without texts the shape is (0, 0).

        Raises:
            NotFound: there is no such model or version.
            Conflict: no Tuneloop run stored this model, or its files were changed.
            InvalidInput: `kind` is neither `query` nor `item`.
        """
        if kind not in ("query", "item"):
            raise InvalidInput(f"`kind` is `query` or `item`, not {kind!r}", field="kind")
        run_id, reference = self._resolve(name, version)
        if not texts:
            return np.zeros((0, 0), dtype=np.float32), reference
        return self._encoder(run_id).encode(texts, kind), reference

    def rank(
        self,
        name: str,
        version: str,
        query: str,
        items: Sequence[tuple[str, str]],
        top_k: int | None = None,
    ) -> tuple[list[tuple[str, float]], str]:
        """Items (object id, text) by the cosine of their embeddings and the query's, and `name/version`.

        Best first, equals in the order given; the first `top_k`, or all.

        Raises:
            NotFound, Conflict: as `embed`.
        """
        run_id, reference = self._resolve(name, version)
        if not items:
            return [], reference
        encoder = self._encoder(run_id)
        texts = list(dict.fromkeys(text for _, text in items))
        # Scored once for each distinct text, so that equal texts have equal scores.
        scores = encoder.encode(texts, "item") @ encoder.encode([query], "query")[0]
        rows = {text: row for row, text in enumerate(texts)}
        scored = [(object_id, float(scores[rows[text]])) for object_id, text in items]
        scored.sort(key=lambda each: -each[1])  # stable
        return scored[:top_k], reference

    def table_model(self, name: str, version: str) -> "tuple[TableModel, str]":
        """A model learnt from tables, and `name/version`.

        Raises:
            NotFound: as `embed`.
            Conflict: as `embed`, or the model was learnt from clicks.
        """
        run_id, reference = self._resolve(name, version)
        return need_table_model(self._cache.get(run_id)), reference

    def _encoder(self, run_id: str) -> Encoder:
        return need_encoder(self._cache.get(run_id))

    def _resolve(self, name: str, version: str) -> tuple[str, str]:
        """The run that stored the model, and `name/version` with the version's number."""
        number = version
        if not version.isdecimal():  # `latest` and aliases move
            number = self._registry.resolve(name, version).version
        now = time.monotonic()
        with self._lock:
            run_id, until = self._known.get((name, number), ("", 0.0))
        if now >= until:
            run_id = self._registry.source_run(self._registry.resolve(name, number))
            with self._lock:
                if len(self._known) >= MAX_REMEMBERED:
                    self._known.clear()
                self._known[name, number] = run_id, now + self._remember_seconds
        return run_id, f"{name}/{number}"
