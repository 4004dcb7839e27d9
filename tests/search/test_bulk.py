"""Many texts at once: the model's own embeddings, whatever makes it fast."""

import copy
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Router
from transformers import DistilBertConfig, DistilBertModel

from support.models import FILLERS, ITEM_WORDS, build_tiny_model, build_tokenizer
from tuneloop.search import bulk
from tuneloop.search.bulk import BulkEncoder, length_groups
from tuneloop.search.encoder import native_bf16
from tuneloop.search.fused import FusedEncoder
from tuneloop.search.model import load_model
from tuneloop.search.products import EightBitProduct, has_eight_bits

needs_eight_bits = pytest.mark.skipif(
    not (has_eight_bits() and native_bf16(torch.device("cpu"))), reason="the processor has no eight-bit products"
)


def make_texts(count: int) -> list[str]:
    chance = np.random.default_rng(0)
    return [" ".join(chance.choice(ITEM_WORDS + FILLERS, chance.integers(1, 25))) for _ in range(count)]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("threads", [1, 3])
def test_embeddings_are_the_models_own(tiny_model, precision, threads):
    texts = make_texts(300)
    texts += ["", texts[0], texts[7]]
    expected = SentenceTransformer(str(tiny_model), device="cpu").encode(texts, normalize_embeddings=True)
    with BulkEncoder(load_model(tiny_model), precision=precision, threads=threads) as encoder:
        vectors = encoder.encode(texts)
        assert encoder.numbers == precision  # the fast form was not found wanting
        assert encoder.encode([]).shape == (0, 32)
    assert vectors.dtype == np.float32 and vectors.shape == (303, 32)
    cosines = np.sum(vectors * expected, axis=1)
    assert cosines.mean() > (0.999999 if precision == "fp32" else 0.999)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(vectors[0], vectors[-2])


def test_threads_leave_the_others_their_cores(tiny_model):
    before = torch.get_num_threads()
    with BulkEncoder(load_model(tiny_model), threads=2) as encoder:
        encoder.encode(make_texts(20))
        found = []
        later = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
        later.start()
        later.join()
    assert (torch.get_num_threads(), found) == (before, [before])


@pytest.mark.parametrize("change", [1.0, float("nan")])
def test_a_fast_form_that_gives_something_else_is_not_used(tiny_model, monkeypatch, change):
    texts = make_texts(50)
    expected = SentenceTransformer(str(tiny_model), device="cpu").encode(texts, normalize_embeddings=True)

    def copied(model):
        found = copy.deepcopy(model)
        with torch.no_grad():
            for parameter in found.parameters():
                parameter.add_(change * torch.randn_like(parameter))
        return found

    def fused(*given, **named):
        found = encode(*given, **named)
        return found + change * torch.randn_like(found)

    encode = FusedEncoder.encode
    monkeypatch.setattr(bulk, "copy", SimpleNamespace(deepcopy=copied))
    monkeypatch.setattr(FusedEncoder, "encode", fused)
    with BulkEncoder(load_model(tiny_model), precision="bf16", threads=1) as encoder:
        np.testing.assert_allclose(encoder.encode(texts), expected, atol=1e-5)
        assert encoder.numbers == "fp32"


@needs_eight_bits
def test_many_texts_are_computed_in_eight_bits(tiny_model):
    texts = make_texts(2000)
    expected = SentenceTransformer(str(tiny_model), device="cpu").encode(texts, normalize_embeddings=True)
    with BulkEncoder(load_model(tiny_model), threads=2) as encoder:
        encoder.encode(texts[:20])
        assert encoder.numbers == "bf16"
        vectors = encoder.encode(texts)
        assert encoder.numbers == "int8"
    assert np.sum(vectors * expected, axis=1).mean() > 0.999


@needs_eight_bits
def test_eight_bits_that_are_too_few_are_not_used(tiny_model, monkeypatch):
    texts = make_texts(2000)

    def coarse(self, watched):
        make(self, watched)
        self._scales = 100 * self._scales

    make = EightBitProduct.__init__
    monkeypatch.setattr(EightBitProduct, "__init__", coarse)
    with BulkEncoder(load_model(tiny_model), threads=2) as encoder:
        encoder.encode(texts)
        assert encoder.numbers == "bf16"


def test_other_layers_than_berts_are_computed_by_the_models_own_code(tmp_path):
    size = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64}
    model, tokenizer = tmp_path / "model", build_tokenizer()
    DistilBertModel(DistilBertConfig(vocab_size=len(tokenizer), **size)).save_pretrained(model)
    tokenizer.save_pretrained(model)
    texts = make_texts(100)
    expected = SentenceTransformer(str(model), device="cpu").encode(texts, normalize_embeddings=True)
    with BulkEncoder(load_model(model), precision="bf16", threads=2) as encoder:
        assert np.sum(encoder.encode(texts) * expected, axis=1).mean() > 0.999
        assert encoder.numbers == "bf16"


def test_each_side_has_its_encoder(tiny_model, tmp_path):
    texts = make_texts(40)
    query = SentenceTransformer(str(build_tiny_model(tmp_path / "query", seed=1)), device="cpu")
    item = SentenceTransformer(str(tiny_model), device="cpu")
    both = SentenceTransformer(
        modules=[Router.for_query_document(query_modules=list(query), document_modules=list(item))], device="cpu"
    )
    for side, single in (("query", query), ("document", item)):
        expected = single.encode(texts, normalize_embeddings=True)
        with BulkEncoder(both, side=side, precision="bf16", threads=1) as encoder:
            assert np.sum(encoder.encode(texts) * expected, axis=1).min() > 0.99


def test_it_can_be_stopped_and_says_how_far_it_is(tiny_model):
    texts = make_texts(400)
    told: list[int] = []

    class Stopped(Exception):
        pass

    def check():
        if sum(told) > 50:
            raise Stopped

    with BulkEncoder(load_model(tiny_model), threads=2) as encoder:
        with pytest.raises(Stopped):
            encoder.encode(texts, check=check, told=told.append)
        assert 50 < sum(told) < 400
        told.clear()
        encoder.encode(texts, told=told.append)
        assert sum(told) == len(set(texts))


def test_groups_pad_little_and_hold_every_text_once():
    lengths = np.random.default_rng(0).integers(1, 257, 4000)
    groups = list(length_groups(lengths, 1024))
    assert sorted(np.concatenate(groups)) == list(range(4000))
    padded = sum(len(rows) * lengths[rows].max() for rows in groups)
    assert padded < 1.02 * lengths.sum()
    assert all(len(rows) * lengths[rows].max() <= 1024 for rows in groups)
    assert len(groups) < 1.8 * lengths.sum() / 1024
    assert [list(rows) for rows in length_groups(np.array([5000, 0]), 1024)] == [[0], [1]]
