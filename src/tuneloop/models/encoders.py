"""Texts to vectors, with the two kinds of MLflow models that are served. Importing this loads no torch."""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from tuneloop.errors import Conflict

if TYPE_CHECKING:
    from tuneloop.search.bulk import BulkEncoder

# How MLflow says that a pyfunc is loaded by running its code.
CODE_LOADER = "mlflow.pyfunc.loaders.code_model"
Kind = Literal["query", "item"]
Vectors = npt.NDArray[np.float32]
# Texts that a model of one's own gets at once when there are many: between two calls work may be stopped.
CHUNK = 64


class Encoder(ABC):
    """A loaded model. Threads take turns: tokenisers cannot be shared."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._exits = ExitStack()

    def encode(self, texts: Sequence[str], kind: Kind) -> Vectors:
        """The embeddings of the texts, float32 (n, dimensions), of unit length. Each distinct text is read once."""
        distinct = list(dict.fromkeys(texts))
        with self._turn:
            vectors = _unit(self._encode(distinct, kind), len(distinct))
        return _spread(vectors, distinct, texts)

    def encode_many(
        self,
        texts: Sequence[str],
        kind: Kind,
        *,
        check: Callable[[], None] = lambda: None,
        told: Callable[[int], None] = lambda _: None,
    ) -> Vectors:
        """As `encode`, for thousands of texts: where the model allows it much faster, in smaller numbers.

        Args:
            texts: the more at once, the faster.
            kind: what they are.
            check: called often; may raise.
            told: called with the number of distinct texts that were just encoded.
        """
        if not texts:
            return np.zeros((0, 0), np.float32)
        with self._turn:
            return self._encode_many(texts, kind, check, told)

    def close(self) -> None:
        """End what encoding started."""
        self._exits.close()

    @abstractmethod
    def _encode(self, texts: list[str], kind: Kind) -> Any:
        """The embeddings of distinct texts, of any length, as something like an array."""

    def _encode_many(
        self, texts: Sequence[str], kind: Kind, check: Callable[[], None], told: Callable[[int], None]
    ) -> Vectors:
        """The embeddings of the texts, of unit length; equal ones are encoded once."""
        distinct, parts = list(dict.fromkeys(texts)), []
        for start in range(0, len(distinct), CHUNK):
            check()
            chunk = distinct[start : start + CHUNK]
            parts.append(_unit(self._encode(chunk, kind), len(chunk)))
            told(len(chunk))
        return _spread(np.concatenate(parts), distinct, texts)


class SentenceTransformersEncoder(Encoder):
    """A model of the `mlflow.sentence_transformers` flavour: in fp32 on the CPU, many texts as fast as can be."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        from tuneloop.search.model import UnsupportedModel, load_model

        try:
            self._model = load_model(folder)
        except UnsupportedModel as error:
            raise Conflict(str(error)) from error
        self._bulk: dict[Kind, BulkEncoder] = {}

    def _encode(self, texts: list[str], kind: Kind) -> Any:
        encode = self._model.encode_query if kind == "query" else self._model.encode_document
        return encode(texts, convert_to_numpy=True, show_progress_bar=False)

    def _encode_many(
        self, texts: Sequence[str], kind: Kind, check: Callable[[], None], told: Callable[[int], None]
    ) -> Vectors:
        from tuneloop.search.bulk import BulkEncoder

        if kind not in self._bulk:
            bulk = BulkEncoder(self._model, side="query" if kind == "query" else "document")
            self._bulk[kind] = self._exits.enter_context(bulk)
        return self._bulk[kind].encode(texts, check=check, told=told)


class PyfuncEncoder(Encoder):
    """A pyfunc saved as models-from-code, whose `predict` takes texts and `params={"kind": …}`."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        import mlflow.pyfunc

        # Beneath MLflow's check of the input against the signature, which drops parameters it does not name.
        self._model: Any = mlflow.pyfunc.load_model(str(folder))._model_impl

    def _encode(self, texts: list[str], kind: Kind) -> Any:
        return self._model.predict(texts, params={"kind": kind})


def _unit(embeddings: Any, count: int) -> Vectors:
    """Embeddings as the model gave them, as float32 of unit length."""
    vectors = np.array(embeddings, dtype=np.float32)
    if vectors.ndim != 2 or len(vectors) != count:
        raise Conflict(f"the model gave an array of shape {vectors.shape} for {count} texts")
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    return vectors


def _spread(vectors: Vectors, distinct: list[str], texts: Sequence[str]) -> Vectors:
    """The embeddings of the distinct texts, for each of the texts."""
    if len(distinct) == len(texts):
        return vectors
    rows = {text: row for row, text in enumerate(distinct)}
    return vectors[[rows[text] for text in texts]]


def load_encoder(folder: Path) -> Encoder:
    """The encoder in the MLflow model `folder`, whose files have been verified.

    Raises:
        Conflict: the model is of no kind that is served; nothing is unpickled.
    """
    from mlflow.models import Model

    flavors = Model.load(str(folder)).flavors
    pyfunc = flavors.get("python_function", {})
    if "sentence_transformers" in flavors:
        return SentenceTransformersEncoder(folder / pyfunc.get("data", "model.sentence_transformer"))
    from_code = "model_code_path" in pyfunc and "python_model" not in pyfunc  # that would be a pickle
    if from_code and pyfunc.get("loader_module") == CODE_LOADER:
        return PyfuncEncoder(folder)
    raise Conflict(
        "this model cannot be served: it is neither of the sentence_transformers flavour nor a pyfunc saved as models "
        "from code"
    )
