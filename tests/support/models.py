"""A tiny sentence-transformers model and a made-up log that it learns from within seconds."""

from __future__ import annotations

import os
import random
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tuneloop.methods.snapshot import ITEMS_SCHEMA, SESSIONS_SCHEMA, Snapshot

TOPICS = 20
# Words of the items, words of the shoppers, and words that mean nothing.
ITEM_WORDS = [f"item{topic}" for topic in range(TOPICS)]
SLANG_WORDS = [f"slang{topic}" for topic in range(TOPICS)]
FILLERS = [f"word{number}" for number in range(30)]
# Hyperparameters with which the tiny model learns the made-up words in a second or two.
TINY_PARAMS = {"num_fixed_layers": 0, "query_lr": 3e-3, "items_lr": 3e-3, "batch_size": 32, "loss": "contrastive"}


def tiny_settings(model: Path | str, **more: Any) -> dict[str, Any]:
    """Settings of the default method for a quick task: the tiny model, two runs that learn, few epochs."""
    return {
        "model": str(model),
        "max_runs": 2,
        "max_epochs": 3,
        "max_length": 16,
        "background_items": 32,
        "fixed_params": TINY_PARAMS,
        **more,
    }


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a random BERT (3 layers, hidden size 32, a vocabulary of 100 words) as sentence-transformers."""
    import torch

    torch.set_num_threads(1)  # threads would wait for each other longer than so small a model takes
    return build_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


def build_tiny_model(folder: Path, *, layers: int = 3, hidden: int = 32, seed: int = 0) -> Path:
    """Write such a model to `folder`; nothing is downloaded."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from transformers import BertConfig, BertModel

    tokenizer = build_tokenizer()
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=2 * hidden,
        max_position_embeddings=64,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        bert = BertModel(config)
    parts = folder.with_name(folder.name + "-parts")
    bert.save_pretrained(parts)
    tokenizer.save_pretrained(parts)
    transformer = Transformer(str(parts), max_seq_length=32)
    model = SentenceTransformer(modules=[transformer, Pooling(hidden, "mean"), Normalize()], device="cpu")
    model.save(str(folder), create_model_card=False)
    return folder


def build_tokenizer() -> Any:
    """A WordPiece tokeniser of the made-up words, as transformers has it."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = special + ITEM_WORDS + SLANG_WORDS + FILLERS
    wordpiece = Tokenizer(models.WordPiece({word: row for row, word in enumerate(words)}, unk_token="[UNK]"))
    wordpiece.normalizer = normalizers.BertNormalizer()
    wordpiece.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    wordpiece.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=wordpiece,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def made_up_items() -> list[dict[str, Any]]:
    """Items in the contract's form, four a topic: `{object_id, text}`."""
    chance = random.Random(0)
    return [
        {"object_id": f"o{topic}-{number}", "text": " ".join([ITEM_WORDS[topic], *chance.sample(FILLERS, 2)])}
        for topic in range(TOPICS)
        for number in range(4)
    ]


def made_up_sessions(count: int = 400, *, seed: int = 0) -> list[dict[str, Any]]:
    """Sessions in the import format: people search in slang and mostly click items of the topic it stands for."""
    chance = random.Random(seed)
    ids = [item["object_id"] for item in made_up_items()]
    sessions = []
    for number in range(count):
        topic = chance.randrange(TOPICS)
        right = [f"o{topic}-{other}" for other in chance.sample(range(4), 2)]
        shown = right + chance.sample([object_id for object_id in ids if not object_id.startswith(f"o{topic}-")], 6)
        chance.shuffle(shown)
        irrelevant = chance.random() < 0.1
        if irrelevant:
            shown = [object_id for object_id in shown if object_id not in right]
        clicked = [
            object_id
            for position, object_id in enumerate(shown, 1)
            if chance.random() < (0.9 if object_id in right else 0.03) / position**0.25 and not irrelevant
        ]
        moment = 1_700_000_000 + 60 * number
        sessions.append(
            {
                "session_id": f"s{seed}-{number}",
                "search_query": " ".join([SLANG_WORDS[topic], *chance.sample(FILLERS, 2)]),
                "search_results": [
                    {"object_id": object_id, "rank": 1 - 0.05 * at} for at, object_id in enumerate(shown)
                ],
                "user_id": f"u{number % 17}",
                "created_at": moment,
                "is_irrelevant": irrelevant,
                "events": [
                    {"event_id": f"e{at}", "object_id": object_id, "event_type": "click", "created_at": moment + 5}
                    for at, object_id in enumerate(clicked)
                ],
            }
        )
    return sessions


def write_snapshot(
    folder: Path, sessions: list[dict[str, Any]] | None = None, items: list[dict[str, Any]] | None = None
) -> Snapshot:
    """A snapshot of sessions in the import format and of items (default: the made-up ones) under `folder`."""
    sessions = made_up_sessions() if sessions is None else sessions
    folder.mkdir(parents=True, exist_ok=True)
    snapshot = Snapshot(str(folder))
    pq.write_table(pa.Table.from_pylist([_row(each) for each in sessions], SESSIONS_SCHEMA), snapshot.sessions_url)
    items = made_up_items() if items is None else items
    pq.write_table(pa.Table.from_pylist(items, ITEMS_SCHEMA), snapshot.items_url)
    return snapshot


def _row(session: dict[str, Any]) -> dict[str, Any]:
    return {
        "session_id": session["session_id"],
        "search_query": session["search_query"],
        "results": [
            {"object_id": result["object_id"], "rank": result.get("rank")} for result in session["search_results"]
        ],
        "events": [
            {
                "object_id": event["object_id"],
                "event_type": event.get("event_type", "click"),
                "created_at": datetime.fromtimestamp(event.get("created_at", 0), UTC),
            }
            for event in session.get("events", [])
        ],
        "is_irrelevant": session.get("is_irrelevant", False),
        "created_at": datetime.fromtimestamp(session.get("created_at", 0), UTC),
    }
