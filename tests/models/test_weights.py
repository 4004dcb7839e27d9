"""The weights of a model as one file."""

from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

import mlflow
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save, save_file

from tuneloop.errors import Conflict, NotFound
from tuneloop.models.registry import ModelRegistry
from tuneloop.models.weights import Weights, merged

StoreRun = Callable[..., str]


def read(size: int, chunks: Iterator[bytes]) -> bytes:
    data = b"".join(chunks)
    assert len(data) == size
    return data


def test_a_models_weights_are_its_file(registry: ModelRegistry, store_run: StoreRun, mlflow_model: Path) -> None:
    run_id = store_run(mlflow_model)
    filename, size, chunks = Weights(registry.tracking).open(run_id)
    assert filename == "model.safetensors"
    (file,) = mlflow_model.rglob("model.safetensors")
    assert read(size, chunks) == file.read_bytes()


def test_two_encoders_become_one_file(
    registry: ModelRegistry, store_run: StoreRun, tiny_model: Path, tmp_path: Path
) -> None:
    from sentence_transformers import SentenceTransformer

    from tuneloop.search.model import split_encoders

    model = split_encoders(SentenceTransformer(str(tiny_model), device="cpu"))
    mlflow.sentence_transformers.save_model(model, str(tmp_path / "router"), pip_requirements=[])
    _, size, chunks = Weights(registry.tracking).open(store_run(tmp_path / "router"))
    tensors = load(read(size, chunks))
    single = load((tiny_model / "model.safetensors").read_bytes())
    assert len(tensors) == 2 * len(single)
    for side in ("query", "document"):
        for name, tensor in single.items():
            np.testing.assert_array_equal(tensors[f"{side}_0_Transformer.{name}"], tensor)


def test_without_weights_there_is_nothing(registry: ModelRegistry, store_run: StoreRun, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        Weights(registry.tracking).open("0" * 32)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "MLmodel").write_text("flavors: {}\n")
    with pytest.raises(NotFound, match="no stored model with weights"):
        Weights(registry.tracking).open(store_run(tmp_path / "model"))


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=6)
TENSORS = st.dictionaries(NAMES, st.lists(st.floats(width=32, allow_nan=False), max_size=5), min_size=1, max_size=4)


@settings(deadline=None, max_examples=50)
@given(st.lists(TENSORS, min_size=2, max_size=4), st.sampled_from(["float32", "float16", "int8"]))
def test_merging_keeps_every_tensor(parts: list[dict[str, list[float]]], dtype: str) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder, np.errstate(all="ignore"):
        files, expected = [], {}
        for number, part in enumerate(parts):
            tensors = {name: np.array(values).astype(dtype) for name, values in part.items()}
            file = Path(folder, str(number))
            save_file(tensors, file, metadata={"format": "pt"})
            files.append((PurePosixPath("model", f"part_{number}", "model.safetensors"), file))
            expected.update({f"part_{number}.{name}": tensor for name, tensor in tensors.items()})
        got = load(read(*merged(files)))
    assert got.keys() == expected.keys()
    for name, tensor in expected.items():
        np.testing.assert_array_equal(got[name], tensor)


def test_shards_keep_their_names_and_a_clash_is_an_error(tmp_path: Path) -> None:
    for number in range(2):
        (tmp_path / str(number)).write_bytes(save({f"layer{number}": np.ones(3)}))
    paths = [PurePosixPath("model", f"model-0000{number}-of-00002.safetensors") for number in range(2)]
    files = [tmp_path / "0", tmp_path / "1"]
    assert set(load(read(*merged(list(zip(paths, files, strict=True)))))) == {"layer0", "layer1"}
    with pytest.raises(Conflict):
        merged([(paths[0], files[0]), (paths[1], files[0])])
