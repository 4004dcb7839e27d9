import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, StaticEmbedding, Transformer
from transformers import (
    AlbertConfig,
    AlbertModel,
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    ModernBertConfig,
    ModernBertModel,
    MPNetConfig,
    MPNetModel,
    XLMRobertaConfig,
    XLMRobertaModel,
)

from support.models import FILLERS, ITEM_WORDS, SLANG_WORDS, build_tokenizer
from tuneloop.search.cache import PrefixCache
from tuneloop.search.encoder import GROUP_TOKENS, Encoder
from tuneloop.search.model import UnsupportedModel, limit_length, load_model, split_encoders
from tuneloop.search.tokens import tokenize

QUERIES = [SLANG_WORDS[0], f"{SLANG_WORDS[1]} word1 word2", " ".join(FILLERS[:9])]
ITEMS = [f"{ITEM_WORDS[0]} word3", " ".join(ITEM_WORDS), " ".join(FILLERS[5:20]), ITEM_WORDS[2], "word4 " * 30]
TEXTS = QUERIES + ITEMS
ROWS = np.arange(len(TEXTS))
SIZE = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64}
ARCHITECTURES = {
    "bert": lambda size: BertModel(BertConfig(vocab_size=size, **SIZE)),
    "xlm-roberta": lambda size: XLMRobertaModel(XLMRobertaConfig(vocab_size=size, pad_token_id=0, **SIZE)),
    "mpnet": lambda size: MPNetModel(MPNetConfig(vocab_size=size, pad_token_id=0, **SIZE)),
    "modernbert": lambda size: ModernBertModel(
        ModernBertConfig(vocab_size=size, pad_token_id=0, local_attention=8, max_position_embeddings=64, **SIZE)
    ),
    "distilbert": lambda size: DistilBertModel(
        DistilBertConfig(vocab_size=size, dim=32, n_layers=3, n_heads=4, hidden_dim=64)
    ),
    "albert": lambda size: AlbertModel(AlbertConfig(vocab_size=size, embedding_size=16, **SIZE)),
}

BERTS = "bert", "xlm-roberta"  # with attention that ends in a sum and a norm


def build(folder, name):
    torch.manual_seed(1)
    tokenizer = build_tokenizer()
    if name != "bert":
        tokenizer.model_input_names = ["input_ids", "attention_mask"]
    ARCHITECTURES[name](len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return SentenceTransformer(
        modules=[Transformer(str(folder), max_seq_length=24), Pooling(32, "mean"), Normalize()], device="cpu"
    )


@pytest.fixture(scope="module", params=ARCHITECTURES)
def model(request, tmp_path_factory):
    return request.param, build(tmp_path_factory.mktemp("model"), request.param)


def encoder_of(model, precision="fp32"):
    return Encoder(model, tokenize(model, TEXTS, queries=len(QUERIES)), precision=precision)


def embed(encoder, rows=ROWS):
    with torch.no_grad():
        return encoder.encode(rows).numpy()


def test_embeddings_are_those_of_sentence_transformers(model):
    _, plain = model
    expected = np.concatenate([plain.encode_query(QUERIES), plain.encode_document(ITEMS)])
    np.testing.assert_allclose(embed(encoder_of(plain)), expected, atol=1e-5)


def test_embeddings_do_not_depend_on_the_other_texts_of_a_call(model):
    encoder = encoder_of(model[1])
    np.testing.assert_allclose(embed(encoder)[[6, 1]], embed(encoder, np.array([6, 1])), atol=1e-5)


def test_embeddings_through_the_cache_are_those_without_it(model, tmp_path):
    name, plain = model
    encoder = encoder_of(plain)
    expected = embed(encoder)
    cache = PrefixCache(tmp_path, max_bytes=10**8)
    for layers, attention in ((1, True), (1, False), (2, True), (2, False)):
        fixed = encoder.fix_layers(layers, cache, attention=attention)
        assert fixed == ((0, False) if name == "albert" else (layers, attention and name in BERTS))
        assert bool(cache.used) == (name != "albert")
        np.testing.assert_allclose(embed(encoder), expected, atol=0.02)
    encoder.release()
    np.testing.assert_allclose(embed(encoder), expected, atol=1e-6)


def test_only_what_lies_above_the_fixed_layers_is_trained(model):
    name, plain = model
    encoder = encoder_of(plain)
    before = {key: value.clone() for key, value in plain.named_parameters()}
    encoder.fix_layers(2)
    rates = {"query_lr": 0.01, "items_lr": 0.01, "query_weight_decay": 0.0, "items_weight_decay": 0.0}
    optimizer = torch.optim.AdamW(encoder.parameter_groups(**rates))
    encoder.encode(ROWS).std(dim=0).sum().backward()
    optimizer.step()
    changed = {key for key, value in plain.named_parameters() if not torch.equal(value, before[key])}
    with torch.no_grad():
        for key, value in plain.named_parameters():
            value.copy_(before[key])
    assert changed
    if name != "albert":
        layer_numbers = {part for key in changed for part in key.split(".") if part.isdigit() and key.startswith("0.")}
        assert "2" in layer_numbers and "1" not in layer_numbers
        assert not any("embeddings" in key or "relative_attention_bias" in key for key in changed)
    encoder.fix_layers(0)
    assert all(value.requires_grad for value in plain.parameters())


def test_bfloat16_gives_the_embeddings_of_fp32_within_tolerance(model):
    exact, rough = (embed(encoder_of(model[1], precision)) for precision in ("fp32", "bf16"))
    assert (exact * rough).sum(axis=1).min() > 0.999


@pytest.mark.parametrize("attention", [False, True])
@pytest.mark.parametrize("fused", [False, True])
def test_gradients_through_the_cache_are_those_without_it(fused, attention, tmp_path):
    plain = build(tmp_path, "bert")
    with torch.no_grad():
        for layer in plain[0].model.encoder.layer:  # so that attention makes a difference
            layer.attention.self.value.weight.mul_(20)
            layer.attention.output.dense.weight.mul_(20)
    gradients = []
    for cache in (None, PrefixCache(tmp_path, max_bytes=10**8)):
        encoder = encoder_of(plain)
        if not fused:
            encoder._fused = dict.fromkeys(encoder._fused)
        encoder.fix_layers(1, cache, attention=attention)
        assert bool(encoder._replay) == (cache is not None and not fused)
        plain.zero_grad()
        encoder.encode(ROWS).std(dim=0).sum().backward()
        gradients.append(
            torch.cat(
                [each.grad.flatten() for each in plain.parameters() if each.requires_grad and each.grad is not None]
            )
        )
        encoder.release()
    assert torch.cosine_similarity(*gradients, dim=0) > 0.99


def test_filling_the_cache_can_be_stopped_at_any_portion(model, tmp_path, monkeypatch):
    name, plain = model
    if name == "albert":
        pytest.skip("its layers are one, so none is fixed")
    monkeypatch.setattr("tuneloop.search.fused.PORTION_TOKENS", 16)
    monkeypatch.setitem(GROUP_TOKENS, "cpu", 16)
    calls = []

    def check():
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt

    cache = PrefixCache(tmp_path, max_bytes=10**8)
    with pytest.raises(KeyboardInterrupt):
        encoder_of(plain).fix_layers(2, cache, check=check)
    assert cache.used == 0


def test_many_texts_are_embedded_in_portions_in_memory_or_on_disk(tmp_path, monkeypatch):
    encoder = encoder_of(build(tmp_path / "model", "bert"))
    expected = embed(encoder)
    monkeypatch.setattr("tuneloop.search.encoder.PORTION", 3)
    for folder in None, tmp_path / "work":
        np.testing.assert_allclose(encoder.embed(ROWS, folder=folder), expected, atol=1e-5)
        assert encoder.embed(ROWS[:0], folder=folder).shape == (0, 32)
        np.testing.assert_allclose(encoder.embed_side("document", folder=folder), expected[len(QUERIES) :], atol=1e-5)
    assert not any((tmp_path / "work").iterdir())


def test_each_distinct_text_goes_through_the_model_once(tmp_path):
    plain = build(tmp_path, "bert")
    encoder = encoder_of(plain)
    seen = []
    plain[0].model.embeddings.word_embeddings.register_forward_pre_hook(
        lambda module, inputs: seen.append(len(inputs[0]))
    )
    embed(encoder)
    assert sum(seen) == len(TEXTS)


def test_two_encoders_are_trained_apart_and_encode_their_own_side(tmp_path):
    plain = build(tmp_path, "bert")
    expected = embed(encoder_of(plain))
    encoder = encoder_of(split_encoders(plain))
    np.testing.assert_allclose(embed(encoder), expected, atol=1e-5)
    encoder.fix_layers(1, PrefixCache(tmp_path, max_bytes=10**8))
    groups = encoder.parameter_groups(query_lr=0.01, items_lr=0.0, query_weight_decay=0.0, items_weight_decay=0.0)
    encoder.encode(ROWS).std(dim=0).sum().backward()
    torch.optim.AdamW(groups).step()
    change = np.abs(embed(encoder) - expected).max(axis=1)
    assert change[: len(QUERIES)].min() > 0.03 > 0.02 > change[len(QUERIES) :].max()
    encoder.release()
    encoder.model.save(str(tmp_path / "two"), create_model_card=False)
    plain_client = SentenceTransformer(str(tmp_path / "two"), device="cpu")
    both = np.concatenate([plain_client.encode_query(QUERIES), plain_client.encode_document(ITEMS)])
    np.testing.assert_allclose(both, embed(encoder), atol=0.02)


def test_prompts_are_read_as_sentence_transformers_reads_them(tmp_path):
    plain = build(tmp_path, "bert")
    plain.prompts = {"query": "word7 ", "passage": "word8 word9 "}
    expected = np.concatenate([plain.encode_query(QUERIES), plain.encode_document(ITEMS)])
    np.testing.assert_allclose(embed(encoder_of(plain)), expected, atol=1e-5)


def test_a_model_without_transformer_is_trained_as_a_whole(tmp_path):
    static = SentenceTransformer(
        modules=[StaticEmbedding(build_tokenizer().backend_tokenizer, embedding_dim=16)], device="cpu"
    )
    encoder = encoder_of(static)
    assert encoder.fix_layers(3, PrefixCache(tmp_path, max_bytes=10**8), attention=True) == (0, False)
    expected = static.encode(TEXTS, normalize_embeddings=True)
    np.testing.assert_allclose(embed(encoder), expected, atol=1e-5)
    encoder.encode(ROWS).std(dim=0).sum().backward()
    assert next(static.parameters()).grad.abs().sum() > 0


def test_texts_are_cut_at_the_limit(tmp_path):
    plain = build(tmp_path, "bert")
    limit_length(plain, 6)
    assert tokenize(plain, TEXTS, queries=len(QUERIES)).lengths.max() == 6
    limit_length(plain, 600)
    assert tokenize(plain, TEXTS, queries=len(QUERIES)).lengths.max() == 6  # never more than the model's own


def test_a_step_may_read_less_of_each_text_than_an_evaluation(tmp_path):
    plain = build(tmp_path, "bert")
    encoder = encoder_of(plain)
    with torch.no_grad():
        short = encoder.encode(ROWS, max_length=5).numpy()
    long = embed(encoder)
    same = encoder.tokens.lengths <= 5
    np.testing.assert_allclose(short[same], long[same], atol=1e-5)
    assert same.any() and np.abs(short - long)[~same].max(axis=1).min() > 1e-3


def test_as_many_depths_are_cached_as_fit_and_none_over_the_limit(tmp_path):
    cache = PrefixCache(tmp_path, max_bytes=1000)  # two of them
    built = []

    def get(depth, tokens=10):
        return cache.get(depth, tokens=tokens, width=20, build=lambda hidden: built.append(depth))

    assert [get(depth) is not None for depth in (1, 2, 1, 3, 1, 2)] == [True] * 6
    assert built == [1, 2, 3, 2]
    assert get(4, tokens=100) is None
    assert not list(tmp_path.iterdir())  # the files have no names


def test_no_more_than_four_depths_are_cached(tmp_path):
    cache = PrefixCache(tmp_path, max_bytes=10**6)
    for depth in range(6):
        cache.get(depth, tokens=10, width=20, build=lambda hidden: None)
    assert cache.used == 4 * 400


@pytest.mark.parametrize("content", [{}, {"modules.json": "[]"}, {"config.json": "{}"}])
def test_a_folder_without_a_model_is_a_clear_error(tmp_path, content):
    for name, text in content.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(UnsupportedModel, match="cannot be loaded"):
        load_model(tmp_path)


def test_pickled_weights_are_not_read(tmp_path):
    plain = build(tmp_path / "parts", "bert")
    plain.save(str(tmp_path / "model"), create_model_card=False)
    torch.save(plain[0].auto_model.state_dict(), tmp_path / "model" / "pytorch_model.bin")
    (tmp_path / "model" / "model.safetensors").unlink()
    with pytest.raises(UnsupportedModel):
        load_model(tmp_path / "model")
