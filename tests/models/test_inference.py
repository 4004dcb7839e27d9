"""Embedding and ranking with registered models."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mlflow
import numpy as np
import pytest

from support.models import build_tiny_model
from tuneloop.errors import Conflict, InvalidInput, NotFound
from tuneloop.models.inference import Inference
from tuneloop.models.registry import ModelRegistry

StoreRun = Callable[..., str]
TEXTS = ["item1 item2", "slang3", "item1 item2", "word1 word2 word3"]


@pytest.fixture
def inference(registry: ModelRegistry, tmp_path: Path) -> Inference:
    return Inference(registry, tmp_path / "models-cache", capacity=2, remember_seconds=0)


@pytest.fixture
def shop(registry: ModelRegistry, store_run: StoreRun, name: str, mlflow_model: Path) -> str:
    """The name of a model whose version 1 is the tiny model."""
    registry.register(name, run_id=store_run(mlflow_model))
    return name


def save(model: object, folder: Path) -> Path:
    mlflow.sentence_transformers.save_model(model, str(folder), pip_requirements=["sentence-transformers"])
    return folder


def test_embeddings_are_the_models_own(inference: Inference, shop: str, tiny_model: Path) -> None:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(tiny_model), device="cpu")
    vectors, reference = inference.embed(shop, "latest", TEXTS, "query")
    assert reference == f"{shop}/1"
    assert vectors.dtype == np.float32 and vectors.shape == (4, 32)
    np.testing.assert_allclose(vectors, model.encode(TEXTS, normalize_embeddings=True), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(vectors[0], vectors[2])
    assert inference.embed(shop, "1", [], "item")[0].shape == (0, 0)
    with pytest.raises(InvalidInput):
        inference.embed(shop, "1", ["x"], "document")  # type: ignore[arg-type]  # what a client may send


def test_items_are_ranked_by_cosine_with_ties_in_order(inference: Inference, shop: str) -> None:
    items = [("b", "slang3 word1"), ("c", "word5"), ("a", "slang3"), ("d", "word5"), ("a2", "slang3"), ("e", "item7")]
    ranked, reference = inference.rank(shop, "1", "slang3", items)
    assert reference == f"{shop}/1"
    scores = dict(ranked)
    assert [object_id for object_id, _ in ranked][:2] == ["a", "a2"]
    assert scores["a"] == pytest.approx(1, abs=1e-5) and scores["a"] == scores["a2"]
    assert [score for _, score in ranked] == sorted(scores.values(), reverse=True)
    order = [object_id for object_id, _ in ranked]
    assert order.index("c") + 1 == order.index("d")
    assert inference.rank(shop, "1", "slang3", items, top_k=3)[0] == ranked[:3]
    assert inference.rank(shop, "1", "slang3", [], top_k=3)[0] == []


def test_two_encoders_are_two(
    inference: Inference, registry: ModelRegistry, store_run: StoreRun, name: str, tiny_model: Path, tmp_path: Path
) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Router

    query = SentenceTransformer(str(build_tiny_model(tmp_path / "query", seed=1)), device="cpu")
    item = SentenceTransformer(str(tiny_model), device="cpu")
    router = Router.for_query_document(query_modules=list(query), document_modules=list(item))
    folder = save(SentenceTransformer(modules=[router], device="cpu"), tmp_path / "router")
    registry.register(name, run_id=store_run(folder))
    for kind, single in (("query", query), ("item", item)):
        expected = single.encode(TEXTS, normalize_embeddings=True)
        np.testing.assert_allclose(inference.embed(name, "1", TEXTS, kind)[0], expected, atol=1e-6)  # type: ignore[arg-type]  # one of the two kinds


CODE = """
import numpy as np
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

class Letters(PythonModel):
    def predict(self, context, model_input, params=None):
        order = -1 if (params or {})["kind"] == "query" else 1
        return np.array([[order * (1 + text.count(letter)) for letter in "abc"] for text in list(model_input)])

set_model(Letters())
"""


@pytest.mark.parametrize("signature", [False, True])
def test_a_pyfunc_from_code_is_served(
    inference: Inference,
    registry: ModelRegistry,
    store_run: StoreRun,
    name: str,
    tmp_path: Path,
    signature: bool,
) -> None:
    (tmp_path / "letters.py").write_text(CODE)
    signatures = mlflow.models.infer_signature(["a"], np.ones((1, 3)), params={"kind": "query"}) if signature else None
    mlflow.pyfunc.save_model(
        str(tmp_path / "pyfunc"), python_model=str(tmp_path / "letters.py"), signature=signatures, pip_requirements=[]
    )
    registry.register(name, run_id=store_run(tmp_path / "pyfunc"))
    vectors, _ = inference.embed(name, "1", ["aab", "c"], "query")
    expected = np.array([[-3, -2, -1], [-1, -1, -2]], dtype=np.float32)
    np.testing.assert_allclose(vectors, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-6)
    np.testing.assert_allclose(inference.embed(name, "1", ["aab", "c"], "item")[0], -vectors, atol=1e-6)


class Bomb:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> object:
        return Path.touch, (Path(self.path),)


def test_nothing_is_unpickled(
    inference: Inference, registry: ModelRegistry, store_run: StoreRun, name: str, mlflow_model: Path, tmp_path: Path
) -> None:
    import torch

    mlflow.pyfunc.save_model(
        str(tmp_path / "pickled"), python_model=lambda model_input: model_input, pip_requirements=[]
    )
    registry.register(name, run_id=store_run(tmp_path / "pickled"))
    with pytest.raises(Conflict, match="neither of the sentence_transformers flavour nor"):
        inference.embed(name, "1", ["a"], "query")
    shutil.copytree(mlflow_model, tmp_path / "bin")
    weights = tmp_path / "bin" / "model.sentence_transformer" / "model.safetensors"
    weights.unlink()
    torch.save(Bomb(str(tmp_path / "exploded")), weights.with_name("pytorch_model.bin"))
    registry.register(name, run_id=store_run(tmp_path / "bin"))
    with pytest.raises(Conflict):
        inference.embed(name, "2", ["a"], "query")
    assert not (tmp_path / "exploded").exists()


def test_only_what_a_tuneloop_run_stored_is_loaded(
    inference: Inference, registry: ModelRegistry, store_run: StoreRun, name: str, mlflow_model: Path, tmp_path: Path
) -> None:
    client = mlflow.MlflowClient(registry.tracking.server.uri)
    tracking = registry.tracking
    # a run that is not ours, registered by whatever way
    foreign = store_run(mlflow_model, record=False)
    registry.register(name, run_id=foreign)
    # a run of ours, but a version that says so of something else
    ours = store_run(mlflow_model)
    client.create_model_version(name, "s3://somewhere/else", ours)
    tracking.artifacts.upload(foreign, mlflow_model)
    client.create_model_version(name, f"runs:/{ours}/other", ours)
    for version in ("1", "2", "3"):
        with pytest.raises(Conflict, match="Tuneloop run"):
            inference.embed(name, version, ["a"], "query")
    # ours, registered by others
    client.create_model_version(name, f"runs:/{ours}/model", ours)
    client.create_model_version(name, f"{tracking.get_run(ours).artifact_uri}/model", ours)
    client.copy_model_version(f"models:/{name}/4", f"{name} copy")
    for model, version in ((name, "4"), (name, "5"), (f"{name} copy", "1")):
        assert inference.embed(model, version, ["a"], "query")[0].shape == (1, 32)


def test_changed_files_are_refused(
    inference: Inference, registry: ModelRegistry, shop: str, mlflow_model: Path, tmp_path: Path
) -> None:
    run_id = registry.resolve(shop, "1").run_id
    assert run_id is not None
    shutil.copytree(mlflow_model, tmp_path / "evil")
    config = tmp_path / "evil" / "model.sentence_transformer" / "modules.json"
    config.write_text(config.read_text().replace("Pooling", "Evil"))
    registry.tracking.artifacts.upload(run_id, tmp_path / "evil")
    with pytest.raises(Conflict, match=r"modules\.json"):
        inference.embed(shop, "1", ["a"], "query")
    assert list((tmp_path / "models-cache").iterdir()) == []
    registry.tracking.artifacts.upload(run_id, mlflow_model)
    assert inference.embed(shop, "1", ["a"], "query")[0].shape == (1, 32)


def test_a_local_copy_that_was_changed_is_fetched_again(
    registry: ModelRegistry, inference: Inference, shop: str, tmp_path: Path
) -> None:
    before, _ = inference.embed(shop, "1", TEXTS, "query")
    for file in (tmp_path / "models-cache").rglob("*.safetensors"):
        file.write_bytes(b"changed")
    again = Inference(registry, tmp_path / "models-cache")
    np.testing.assert_array_equal(again.embed(shop, "1", TEXTS, "query")[0], before)


def test_unknown_and_deleted_models_are_not_found(inference: Inference, registry: ModelRegistry, shop: str) -> None:
    for name, version in ((shop, "2"), (shop, "@champion"), ("nobody", "1"), ("nobody", "latest")):
        with pytest.raises(NotFound):
            inference.embed(name, version, ["a"], "query")
    inference.embed(shop, "1", ["a"], "query")
    client = mlflow.MlflowClient(registry.tracking.server.uri)
    client.delete_model_version(shop, "1")
    for version in ("1", "latest"):
        with pytest.raises(NotFound):
            inference.embed(shop, version, ["a"], "query")
    client.delete_registered_model(shop)
    with pytest.raises(NotFound):
        inference.embed(shop, "1", ["a"], "query")


def test_an_alias_that_moves_is_heard_at_once(
    inference: Inference, registry: ModelRegistry, store_run: StoreRun, shop: str, tmp_path: Path
) -> None:
    from sentence_transformers import SentenceTransformer

    other = SentenceTransformer(str(build_tiny_model(tmp_path / "other", seed=7)), device="cpu")
    registry.register(shop, run_id=store_run(save(other, tmp_path / "saved")))
    registry.set_alias(shop, "champion", 1)
    first, reference = inference.embed(shop, "@champion", TEXTS, "query")
    assert reference == f"{shop}/1"
    registry.set_alias(shop, "champion", 2)
    second, reference = inference.embed(shop, "@champion", TEXTS, "query")
    assert reference == f"{shop}/2" and not np.allclose(first, second)


def test_requests_at_once_load_a_model_once(inference: Inference, shop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from tuneloop.models import cache

    loads: list[Path] = []
    load = cache.load_model
    monkeypatch.setattr(cache, "load_model", lambda folder: loads.append(folder) or load(folder))
    with ThreadPoolExecutor(8) as pool:
        vectors = list(pool.map(lambda _: inference.embed(shop, "1", TEXTS, "query")[0], range(16)))
    assert len(loads) == 1
    for each in vectors:
        np.testing.assert_array_equal(each, vectors[0])


def test_the_least_recently_used_model_goes(
    inference: Inference, registry: ModelRegistry, store_run: StoreRun, name: str, mlflow_model: Path, tmp_path: Path
) -> None:
    runs = [store_run(mlflow_model) for _ in range(4)]
    for run_id in runs:
        registry.register(name, run_id=run_id)
    for version in ("1", "2", "1", "3"):
        inference.embed(name, version, ["a"], "query")
    assert {path.name for path in (tmp_path / "models-cache").iterdir()} == {runs[0], runs[2]}
    fresh = Inference(registry, tmp_path / "models-cache", capacity=2)
    fresh.embed(name, "4", ["a"], "query")
    assert len(list((tmp_path / "models-cache").iterdir())) == 2


def test_the_modules_are_light() -> None:
    code = """
import sys
import tuneloop.models.inference, tuneloop.models.registry, tuneloop.models.store, tuneloop.models.weights
import tuneloop.tracking
heavy = {"torch", "transformers", "sentence_transformers", "mlflow", "pandas"} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
