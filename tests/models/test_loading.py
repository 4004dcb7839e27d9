"""Models loaded for one piece of work, and what they make of many texts."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from support.models import FILLERS
from tuneloop.errors import Conflict, NotFound
from tuneloop.models.loading import load_run
from tuneloop.models.registry import ModelRegistry

StoreRun = Callable[..., str]


def test_many_texts_get_the_embeddings_that_few_get(
    registry: ModelRegistry, store_run: StoreRun, mlflow_model: Path, tmp_path: Path
) -> None:
    encoder = load_run(registry, store_run(mlflow_model), tmp_path / "model")
    texts = [" ".join(FILLERS[start : start + 1 + start % 7]) for start in range(25)] * 3
    told: list[int] = []
    many = encoder.encode_many(texts, "item", told=told.append)
    assert sum(told) == 25
    assert many.dtype == np.float32
    few = encoder.encode(texts, "item")
    assert np.sum(many * few, axis=1).mean() > 0.999
    np.testing.assert_array_equal(many[0], many[25])
    again = encoder.encode(texts, "item")  # the model itself is as it was
    np.testing.assert_array_equal(few, again)
    assert encoder.encode_many([], "item").shape[0] == 0
    encoder.close()


def test_only_what_a_run_stored_is_loaded(
    registry: ModelRegistry, store_run: StoreRun, mlflow_model: Path, tmp_path: Path
) -> None:
    with pytest.raises(Conflict, match="not stored by Tuneloop"):
        load_run(registry, store_run(mlflow_model, record=False), tmp_path / "model")
    with pytest.raises(NotFound):
        load_run(registry, "0" * 32, tmp_path / "other")
