"""Texts to vectors, with the two kinds of MLflow models that are served. Importing this loads no torch."""

import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tuneloop.errors import Conflict

# How MLflow says that a pyfunc is loaded by running its code.
CODE_LOADER = "mlflow.pyfunc.loaders.code_model"
Kind = Literal["query", "item"]
Vectors = npt.NDArray[np.float32]


class Encoder(ABC):
    """A loaded model. Threads take turns: tokenisers cannot be shared."""

    def __init__(self) -> None:
        self._turn = threading.Lock()

    def encode(self, texts: Sequence[str], kind: Kind) -> Vectors:
        """The embeddings of the texts, float32 (n, dimensions), of unit length. Each distinct text is read once."""
        distinct = list(dict.fromkeys(texts))
        with self._turn:
            vectors = np.asarray(self._encode(distinct, kind), dtype=np.float32)
        if vectors.ndim != 2 or len(vectors) != len(distinct):
            raise Conflict(f"the model gave an array of shape {vectors.shape} for {len(distinct)} texts")
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(np.float32).tiny)
        rows = {text: row for row, text in enumerate(distinct)}
        return vectors[[rows[text] for text in texts]]

    @abstractmethod
    def _encode(self, texts: list[str], kind: Kind) -> Any:
        """The embeddings of distinct texts, of any length, as something like an array."""


class SentenceTransformersEncoder(Encoder):
    """A model of the `mlflow.sentence_transformers` flavour, in fp32 on the CPU."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        from tuneloop.search.model import UnsupportedModel, load_model

        try:
            self._model = load_model(folder)
        except UnsupportedModel as error:
            raise Conflict(str(error)) from error

    def _encode(self, texts: list[str], kind: Kind) -> Any:
        encode = self._model.encode_query if kind == "query" else self._model.encode_document
        return encode(texts, convert_to_numpy=True, show_progress_bar=False)


class PyfuncEncoder(Encoder):
    """A pyfunc saved as models-from-code, whose `predict` takes texts and `params={"kind": …}`."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        import mlflow.pyfunc

        # Beneath MLflow's check of the input against the signature, which drops parameters it does not name.
        self._model: Any = mlflow.pyfunc.load_model(str(folder))._model_impl

    def _encode(self, texts: list[str], kind: Kind) -> Any:
        return self._model.predict(texts, params={"kind": kind})


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
