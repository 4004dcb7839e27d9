"""What does each part of the default method bring? One run each, on all sessions of rare-diseases, from the same start
model; all but the named part as by default. The test queries decide nothing: held-out searches choose the best state.

    python benchmarks/ablation.py [--only NAME …] [--quick] [--json FILE]
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from common import need, write_json
from contenders import MAX_LENGTH, Watch, quality, start_model, write_snapshot
from tuneloop.methods.contract import Prepared
from tuneloop.methods.default import DefaultFineTuningMethod, DefaultSettings, FixedParams
from tuneloop.methods.snapshot import Snapshot

# Each changes settings or, where there is no such setting, hyperparameters.
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "one pass": {"max_epochs": 1},
    "in-batch negatives alone": {"negative_downsampling": 0.0},
    "two hard negatives": {"negative_downsampling": 0.1},
    "negatives from any position": {"negative_hardness": 0.0},
    "no memory": {"memory": 0.0},
    "negatives that were seen": {"seen_only": True},
    "inverse propensity": {"inverse_propensity": True},
    "temperature 0.05": {"temperature": 0.05},
    "temperature 0.1": {"temperature": 0.1},
    "no robustness": {"robustness": 0.0},
    "margin ranking loss": {"loss": "margin_ranking"},
    "no distillation": {"distillation": 0.0},
    "averaging 0.2": {"averaging": 0.2},
    "irrelevant sessions too": {"not_irrelevant_only": False},
    "attention of both trained layers": {"fixed_attention": False},
    "one layer": {"num_fixed_layers": 5},
    "all layers": {"num_fixed_layers": 0, "query_lr": 2e-4, "items_lr": 2e-4},
    "texts of up to 96 tokens": {"train_length": 96},
    "two encoders": {"encoders": "two"},
    "query only": {"mode": "query_only"},
    "adapter": {"mode": "adapter"},
}
console = Console()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--only", nargs="+", choices=VARIANTS, metavar="NAME", help="only these rows")
    parser.add_argument("--quick", action="store_true", help="one pass over a tenth of the sessions, a few rows")
    arguments = parser.parse_args()
    need("rare-diseases")
    names = arguments.only or (["default", "one layer", "adapter"] if arguments.quick else list(VARIANTS))
    with tempfile.TemporaryDirectory() as folder:
        snapshot = write_snapshot(Path(folder), share=0.1 if arguments.quick else 1.0)
        start = Path(folder) / "model" / "start"
        method = DefaultFineTuningMethod(DefaultSettings(max_length=MAX_LENGTH))
        method.save_model(method.load_initial_model(), start)
        rows: list[dict[str, Any]] = [{"variant": "start model", "seconds": 0.0, **quality(start_model())}]
        console.print(rows[0])
        shared: dict[str, tuple[DefaultFineTuningMethod, Prepared]] = {}
        for name in names:
            changed = {"max_epochs": 1} if arguments.quick else {}
            rows.append({"variant": name, **measure(VARIANTS[name] | changed, snapshot, start, shared)})
            console.print(rows[-1])
    show(rows)
    figures = {
        f"{row['variant']}: {name}": row[name]
        for row in rows
        for name in ("ndcg_at_10", "mrr", "seconds")
        if name in row
    }
    write_json(arguments.json, figures=figures, runs=rows)


def measure(changes: dict[str, Any], snapshot: Snapshot, start: Path, shared: dict[str, Any]) -> dict[str, Any]:
    """Train once with these changes."""
    params = {name: value for name, value in changes.items() if name in FixedParams.model_fields}
    settings = {name: value for name, value in changes.items() if name not in params}
    method = DefaultFineTuningMethod(DefaultSettings(max_length=MAX_LENGTH, **settings))
    watch = Watch(batch_size=1)
    encoders = f"{method.settings.encoders} {method.settings.mode}"
    if encoders not in shared:  # runs with the same encoders share what is prepared, as in an iteration
        shared.clear()
        shared[encoders] = method.prepare(snapshot, start, watch)
    began = time.perf_counter()
    trained = method.train(shared[encoders], start, {**method.default_params(), **params}, watch)
    seconds = time.perf_counter() - began
    held_out = {f"held_out_{name}": trained.metrics[f"test_{name}"] for name in ("ndcg_at_10", "mrr")}
    return {"seconds": seconds, **held_out, **quality(trained.model)}


def show(rows: list[dict[str, Any]]) -> None:
    table = Table("variant", "seconds", "held-out nDCG@10", "test nDCG@10", "test MRR", title="one run each")
    for row in rows:
        held_out = f"{row['held_out_ndcg_at_10']:.3f}" if "held_out_ndcg_at_10" in row else ""
        table.add_row(
            row["variant"], f"{row['seconds']:.0f}", held_out, f"{row['ndcg_at_10']:.3f}", f"{row['mrr']:.3f}"
        )
    console.print(table)


if __name__ == "__main__":
    main()
