"""How fast is the training engine, and how well does what it trains rank, beside what people would use instead?

On the same machine in one run, on the same sessions of rare-diseases and the same start model:

  st fp32, st bf16   sentence-transformers' own trainer, in-batch negatives, batch 64
  per session        one session at a time, every shown result encoded, margin ranking
  ours               the default method's engine, queries and items both trained, its default hyperparameters
  ours, all layers   the same with no layer fixed

Rates come from interleaved stretches, each contender in a process of its own, medians and ratios of medians; whole
epochs, for quality, and a whole iteration of 8 runs through the running service once. Takes somewhat over an hour. On a
processor without bfloat16 there is no st bf16, and no figure beside it.

    python benchmarks/tuning.py [--quick] [--json FILE]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Self

import psutil
from rich.console import Console
from rich.table import Table

import rare_diseases
from common import has_bf16, need, read_lines, service, write_json

ALL_LAYERS = "ours, all layers"
ST_BF16 = "st bf16"
RATES: dict[str, tuple[str, dict[str, Any]]] = {
    "st fp32": ("st", {"bf16": False}),
    ST_BF16: ("st", {"bf16": True}),
    "per session": ("per_session", {}),
    "ours": ("ours", {"rate": True}),
    ALL_LAYERS: ("ours", {"rate": True, "fixed_params": {"num_fixed_layers": 0}}),
}
ROUNDS = 3
GROWTH = 10
console = Console()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument(
        "--quick", action="store_true", help="one short stretch on few of the sessions, with layers fixed alone"
    )
    arguments = parser.parse_args()
    need("rare-diseases")
    names = [name for name in RATES if name != ST_BF16 or has_bf16()]
    with ExitStack() as stack:
        if arguments.quick:
            names.remove(ALL_LAYERS)
            contenders, rates = measure_rates(stack, names, rounds=1, seconds=4, share=0.05)
        else:
            start = run("start")
            console.print(f"the start model: nDCG@10 {start['ndcg_at_10']:.3f}, MRR {start['mrr']:.3f}")
            contenders, rates = measure_rates(stack, names, rounds=ROUNDS, seconds=60)
        runs = [{"contender": name, **each} for name, found in rates.items() for each in found]
        figures = rate_figures(rates)
        show(rates)
        measures = () if arguments.quick else (partial(quality_figures, contenders), growth_figures, iteration_figures)
        for measure in measures:
            write_json(arguments.json, figures=figures, runs=runs)  # what is known, should it be stopped
            figures |= measure(runs)
    report(figures)
    write_json(arguments.json, figures=figures, runs=runs)


class Contender:
    """A contender in a process of its own, and the peak of its tree's anonymous memory."""

    def __init__(self, name: str, **settings: Any) -> None:
        self._name = name
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the contender
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("contenders.py")), name, json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )

    def turn(self, seconds: float | None = None) -> dict[str, Any]:
        """What comes of so many seconds of it; None: of it whole."""
        assert self._process.stdin and self._process.stdout
        with PeakMemory(self._process.pid) as memory:
            print(json.dumps(seconds), file=self._process.stdin, flush=True)
            line = self._process.stdout.readline()
        if not line:
            self._errors.seek(0)
            raise SystemExit(f"{self._name} failed:\n{self._errors.read()}")
        found: dict[str, Any] = json.loads(line)
        return found | {"peak_gib": memory.gib}

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()
        self._errors.close()


def run(contender: str, **settings: Any) -> dict[str, Any]:
    """A contender from its beginning to its end."""
    with closing(Contender(contender, **settings)) as each:
        return each.turn()


def measure_rates(
    stack: ExitStack, names: Sequence[str], *, rounds: int, seconds: float, **more: Any
) -> tuple[dict[str, Contender], dict[str, list[dict[str, Any]]]]:
    """Stretches of all contenders, in turns; they wait for another one."""
    contenders: dict[str, Contender] = {}
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for number in range(rounds):
        for name in names:
            if name not in contenders:  # one at a time prepares, while the others wait
                contender, settings = RATES[name]
                contenders[name] = stack.enter_context(closing(Contender(contender, **settings, **more)))
            found = contenders[name].turn(seconds)
            console.print(f"  round {number + 1}, {name}: {found['rate']:.1f} sessions/s")
            results[name].append(found)
    return contenders, results


def rate_figures(rates: dict[str, list[dict[str, Any]]]) -> dict[str, float]:
    rate = {name: median(each["rate"] for each in found) for name, found in rates.items()}
    ours = rates["ours"]
    figures = {
        "speed_vs_st_fp32": rate["ours"] / rate["st fp32"],
        "speed_vs_per_session": rate["ours"] / rate["per session"],
        "utilisation": median(each["useful_gflops"] / each["peak_gflops"] for each in ours),
    }
    if ST_BF16 in rate:
        figures["speed_vs_st_bf16"] = rate["ours"] / rate[ST_BF16]
    if ALL_LAYERS in rate:
        figures["speed_all_layers_vs_st_fp32"] = rate[ALL_LAYERS] / rate["st fp32"]
    return figures


def quality_figures(contenders: Mapping[str, Contender], runs: list[Any]) -> dict[str, float]:
    """Whole epochs: what each comes to, and how long ours takes to be as good as the trainer after one."""
    others = [name for name in ("st fp32", ST_BF16) if name in contenders]
    whole = {}
    for name, contender in contenders.items():
        if name in others:
            whole[name] = contender.turn()  # what is left of the epoch
        contender.close()
    target = whole["st fp32"]["ndcg_at_10"]
    whole["ours"] = run("ours", curve=True, target=target)
    runs += [{"contender": name, "whole": True, **found} for name, found in whole.items()]
    table = Table("contender", "seconds", "nDCG@10", "MRR", title="whole runs, 1,000 test queries")
    for name in others:
        table.add_row(f"{name}, one epoch", *_row(whole[name]))
    for point in whole["ours"]["curve"]:
        table.add_row(f"ours, after {point['sessions']:,.0f} sessions", *_row(point))
    console.print(table)
    reached = next((point for point in whole["ours"]["curve"] if point["ndcg_at_10"] >= target), None)
    return {
        "time_to_quality_vs_st": whole["st fp32"]["seconds"] / reached["seconds"] if reached else 0.0,
        "sessions_to_quality": reached["sessions"] if reached else 0.0,
        **{f"ndcg_at_10_{name.replace(' ', '_')}": whole[name]["ndcg_at_10"] for name in others},
        "ndcg_at_10_ours": whole["ours"]["curve"][-1]["ndcg_at_10"],
        "mrr_ours": whole["ours"]["curve"][-1]["mrr"],
        "peak_gib": whole["ours"]["peak_gib"],
    }


def growth_figures(runs: list[Any]) -> dict[str, float]:
    """A quarter of an epoch and an evaluation, with everything that comes before, on made-up data and on ten times as
    many.
    """
    quarter = {"max_epochs": 1, "evaluations": 3, "looks": 1}
    small, large = (run("ours", copies=copies, **quarter) for copies in (1, GROWTH))
    runs += [{"contender": "ours, made-up data", "copies": n, **each} for n, each in ((1, small), (GROWTH, large))]
    return {
        "growth_time": large["seconds"] / small["seconds"],
        "growth_memory": large["peak_gib"] / small["peak_gib"],
    }


def iteration_figures(runs: list[Any]) -> dict[str, float]:
    """An iteration on all sessions through the running service: what it ranks like, and what it costs."""
    folder = need("rare-diseases")
    items, queries = read_lines(folder / "items.jsonl.gz"), read_lines(folder / "queries.test.jsonl.gz")
    with service() as client:
        client.upsert_items(items)
        client.import_sessions(read_lines(folder / "sessions.jsonl.gz"))
        clock = RunClock()
        began = time.monotonic()
        task = client.create_task("Default Fine Tuning Method")
        task = client.wait(task.id, callback=clock, poll_seconds=1)
        seconds = time.monotonic() - began
        if task.status != "done" or task.best_run_id is None:
            raise SystemExit(f"the iteration ended {task.status}: {task.detail}")
        version = client.register_model(rare_diseases.MODEL, task_id=task.id).version
        quality = rare_diseases.measure(client, version, items, queries)
    single = clock.first_run
    runs.append({"contender": "iteration", "seconds": seconds, "single_run_seconds": single, **quality})
    return {"iteration_in_runs": seconds / single, "iteration_seconds": seconds, **quality}


class RunClock(rare_diseases.Follower):
    """Prints what the task does, and takes the time of its first run, which nothing prunes."""

    def __init__(self) -> None:
        super().__init__(console)
        self._began: float | None = None
        self.first_run = 0.0

    def __call__(self, task: Any) -> None:
        super().__call__(task)
        progress = task.progress
        if progress is None or not progress.runs_total:
            return
        if self._began is None:
            self._began = time.monotonic()
        if progress.runs_done == 0:
            self.first_run = time.monotonic() - self._began


class PeakMemory:
    """Watches the anonymous memory of a process and its children, within this context."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._peak = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    @property
    def gib(self) -> float:
        """The most so far."""
        return self._peak / 2**20

    def _watch(self) -> None:
        while not self._over.wait(0.2):
            with suppress(psutil.Error):
                top = psutil.Process(self._pid)
                tree = [top, *top.children(recursive=True)]
                self._peak = max(self._peak, sum(_anonymous_kib(each.pid) for each in tree))


def _anonymous_kib(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("RssAnon")), 0)


def _row(found: dict[str, Any]) -> list[str]:
    return [f"{found['seconds']:.0f}", f"{found['ndcg_at_10']:.3f}", f"{found['mrr']:.3f}"]


def show(rates: dict[str, list[dict[str, Any]]]) -> None:
    table = Table("contender", "sessions/s", "× st fp32", "peak GiB", title=f"training rates, {os.cpu_count()} cores")
    base = median(each["rate"] for each in rates["st fp32"])
    for name, found in rates.items():
        rate = median(each["rate"] for each in found)
        peak = max(each["peak_gib"] for each in found)
        table.add_row(name, f"{rate:.1f}", f"{rate / base:.1f}", f"{peak:.1f}")
    console.print(table)


def report(figures: dict[str, float]) -> None:
    table = Table("figure", "measured")
    for name, value in figures.items():
        table.add_row(name, f"{value:.3f}")
    console.print(table)


if __name__ == "__main__":
    main()
