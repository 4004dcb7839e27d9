import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer
from transformers import (
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    ElectraConfig,
    ElectraModel,
    RobertaConfig,
    RobertaModel,
)

from support.models import FILLERS, build_tokenizer
from tuneloop.search.encoder import Encoder
from tuneloop.search.fused import FusedEncoder
from tuneloop.search.halves import NotFusible
from tuneloop.search.tokens import tokenize

SIZE = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64}
FAMILIES = {
    "bert": lambda size: BertModel(BertConfig(vocab_size=size, **SIZE)),
    "roberta": lambda size: RobertaModel(RobertaConfig(vocab_size=size, pad_token_id=0, **SIZE)),
    "electra": lambda size: ElectraModel(ElectraConfig(vocab_size=size, embedding_size=32, **SIZE)),
}
RNG = np.random.default_rng(3)
TEXTS = [" ".join(RNG.choice(FILLERS, length)) for length in RNG.integers(1, 40, 60)]
ROWS = np.arange(len(TEXTS))


@pytest.fixture(autouse=True)
def as_many_threads_as_before():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def build(folder, transformer, *, pooling="mean", dense=False):
    torch.manual_seed(1)
    tokenizer = build_tokenizer()
    transformer(len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    modules = [Transformer(str(folder), max_seq_length=32), Pooling(32, pooling)]
    return SentenceTransformer(modules=[*modules, *([Dense(32, 16)] if dense else []), Normalize()], device="cpu")


def learn(model, *, fused, depth=0, attention=False, precision="fp32", threads=1):
    """The embeddings, and the gradient of every parameter."""
    torch.set_num_threads(threads)
    encoder = Encoder(model, tokenize(model, TEXTS, queries=20), precision=precision)
    assert encoder._fused["document"] is not None
    if not fused:
        encoder._fused = dict.fromkeys(encoder._fused)
    encoder.fix_layers(depth, attention=attention)
    model.zero_grad()
    embeddings = encoder.encode(ROWS, max_length=24)
    weights = torch.linspace(-1, 1, embeddings.numel()).view_as(embeddings)
    (embeddings * weights).sum().backward()
    encoder.release()
    found = {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}
    return embeddings.detach(), found


def assert_same(found, expected, *, tolerance):
    torch.testing.assert_close(found[0], expected[0], atol=tolerance, rtol=0)
    names = {name for name, each in expected[1].items() if each.abs().max() > 0}
    assert names == {name for name, each in found[1].items() if each.abs().max() > 0}
    largest = max(float(each.abs().max()) for each in expected[1].values())
    for name in names:
        torch.testing.assert_close(found[1][name], expected[1][name], atol=tolerance * largest, rtol=0, msg=name)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("depth", "attention"), [(0, False), (1, True), (2, False), (2, True)])
@pytest.mark.parametrize("family", FAMILIES)
def test_embeddings_and_gradients_are_those_of_the_models_own_code(family, depth, attention, threads, tmp_path):
    model = build(tmp_path, FAMILIES[family])
    what = {"depth": depth, "attention": attention}
    expected = learn(model, fused=False, **what)
    trained = {name for name, each in expected[1].items() if each.abs().max() > 0}
    assert any(f"layer.{depth}.attention" in name for name in trained) != attention
    assert any(f"layer.{depth}.output" in name for name in trained)
    assert_same(learn(model, fused=True, **what, threads=threads), expected, tolerance=1e-4)


def test_bfloat16_comes_to_the_same_within_its_precision(tmp_path):
    model = build(tmp_path, FAMILIES["bert"])
    exact, rough = learn(model, fused=False), learn(model, fused=True, precision="bf16", threads=2)
    torch.testing.assert_close(rough[0], exact[0], atol=0.01, rtol=0)
    gradients = [torch.cat([found[name].flatten() for name in exact[1]]) for _, found in (exact, rough)]
    assert torch.cosine_similarity(*gradients, dim=0) > 0.99


@pytest.mark.parametrize("pooling", ["cls", "max", "lasttoken"])
def test_what_comes_after_the_layers_is_the_models_own_and_learns_too(pooling, tmp_path):
    model = build(tmp_path, FAMILIES["bert"], pooling=pooling, dense=True)
    expected = learn(model, fused=False, depth=1)
    assert "2.linear.weight" in expected[1]
    assert_same(learn(model, fused=True, depth=1), expected, tolerance=1e-4)


def test_two_cores_give_the_same_gradients_every_time(tmp_path):
    model = build(tmp_path, FAMILIES["bert"])
    first, second = (learn(model, fused=True, precision="bf16", threads=2)[1] for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    "transformer",
    [
        lambda size: BertModel(BertConfig(vocab_size=size, hidden_act="relu", **SIZE)),
        lambda size: DistilBertModel(DistilBertConfig(vocab_size=size, dim=32, n_layers=3, n_heads=4, hidden_dim=64)),
    ],
    ids=["relu", "distilbert"],
)
def test_other_layers_are_left_to_the_models_own_code(transformer, tmp_path):
    model = build(tmp_path, transformer)
    with pytest.raises(NotFusible):
        FusedEncoder(model, torch.float32)
    encoder = Encoder(model, tokenize(model, TEXTS, queries=20), precision="fp32")
    with torch.no_grad():
        np.testing.assert_allclose(encoder.encode(ROWS).numpy(), model.encode(TEXTS), atol=1e-5)


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return build(tmp_path_factory.mktemp("bert"), FAMILIES["bert"])


@given(st.lists(st.sampled_from(ROWS.tolist()), min_size=1, max_size=12, unique=True))
def test_a_text_has_its_embedding_whatever_others_there_are(bert, rows):
    encoder = Encoder(bert, tokenize(bert, TEXTS, queries=20), precision="fp32")
    with torch.no_grad():
        alone = torch.cat([encoder.encode(np.array([row])) for row in rows])
        torch.testing.assert_close(encoder.encode(np.array(rows)), alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("sharpness", [1e3, -1e3])
def test_attention_scores_beyond_what_an_exponential_holds_are_no_trouble(sharpness, precision, tmp_path):
    model = build(tmp_path, FAMILIES["bert"])
    with torch.no_grad():
        for layer in model[0].model.encoder.layer:  # every score is some ten thousand
            layer.attention.self.query.bias.fill_(sharpness)
            layer.attention.self.key.bias.fill_(10)
        encoder = Encoder(model, tokenize(model, TEXTS, queries=20), precision=precision)
        assert encoder._fused["document"] is not None
        cosine = (encoder.encode(ROWS).numpy() * model.encode(TEXTS)).sum(1)
    assert cosine.mean() > (0.9999 if precision == "fp32" else 0.98)
