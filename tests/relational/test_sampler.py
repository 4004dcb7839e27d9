"""A sample holds what its words say, nothing later than the cut-off, and depends on seed, entity and time alone."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.tables import START, shop_tables, write_shop
from tuneloop.relational import Dataset
from tuneloop.relational.examples import Examples, read_examples
from tuneloop.relational.graph import LABELS
from tuneloop.relational.opening import open_tables
from tuneloop.relational.sampler import Sampled, Sampler
from tuneloop.relational.sources import Sources
from tuneloop.relational.world import World, learn_reading

pytest.importorskip("torch_geometric")
LATER = START + timedelta(days=120)
STRATEGIES = ("last", "uniform")


@contextmanager
def world_of(folder: Path) -> Iterator[tuple[World, Examples]]:
    dataset = Dataset.load(folder / "shop.yaml")
    assert dataset.task is not None and dataset.task.source is not None
    splits = {f"task.{name}": source for name, source in dataset.task.source.items()}
    with open_tables({t.name: t.source for t in dataset.tables} | splits, Sources()) as tables:
        train = read_examples(dataset.task, {"train": tables["task.train"]})["train"]
        early = train.take(np.flatnonzero(train.times <= np.datetime64(LATER)))
        _, world = learn_reading(dataset, tables, early, train, None)
        yield world, early


def written(folder: Path, transactions: dict[str, list[Any]] | None = None) -> Path:
    Dataset.parse(write_shop(folder)).save(folder / "shop.yaml")
    if transactions is not None:
        pq.write_table(pa.table(transactions), folder / "transactions.parquet")
    return folder


def sample(world: World, examples: Examples, strategy: Any, *, fan_outs: tuple[int, ...] = (5, 3, 2)) -> Sampled:
    seeds = world.seeds(examples)
    return Sampler(world.graph, fan_outs, strategy).sample(seeds.rows, seeds.hashes, seeds.times, seeds.limits, seed=3)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> tuple[World, Examples]:
    with world_of(written(tmp_path_factory.mktemp("shop"))) as found:
        return found


def of_hop(sampled: Sampled, table: str, hop: int) -> np.ndarray:
    """The places of a hop's nodes."""
    ends = sampled.nodes[table].ends
    return np.arange(ends[hop - 1], ends[hop])


def test_last_are_the_latest_rows_and_uniform_are_spread_over_all(shop: Any) -> None:
    world, examples = shop
    link = next(each for each in world.graph.links if (each.child, each.parent) == ("transactions", "customers"))
    times = world.graph.tables["transactions"].times
    seeds = world.seeds(examples)
    spread = 0
    for strategy in STRATEGIES:
        sampled = sample(world, examples, strategy)
        nodes = sampled.nodes["transactions"]
        first = of_hop(sampled, "transactions", 1)
        for example in range(len(examples)):
            chosen = nodes.rows[first][nodes.examples[first] == example]
            own = link.rows[link.starts[seeds.rows[example]] : link.starts[seeds.rows[example] + 1]]
            known = own[times[own] <= seeds.limits[example]]
            assert len(set(chosen)) == len(chosen) == min(5, len(known))
            assert set(chosen) <= set(known)
            if strategy == "last":
                assert set(chosen) == set(known[-5:])
            else:
                spread += len(set(chosen) - set(known[-5:]))
            assert sampled.nodes["customers"].counts[example, 0] == len(known)
    assert spread > len(examples) / 2


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_no_hop_reaches_a_row_after_the_cut_off(shop: Any, strategy: str) -> None:
    world, examples = shop
    aged = examples.frozen_at(np.datetime64(START + timedelta(days=90)))
    limits = world.seeds(aged).limits
    sampled = sample(world, aged, strategy)
    reached = 0
    for name in ("transactions", LABELS):
        nodes = sampled.nodes[name]
        assert (world.graph.tables[name].times[nodes.rows] <= limits[nodes.examples]).all()
        reached += len(of_hop(sampled, name, 3))
    assert reached > 0


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_an_example_meets_the_same_rows_in_any_batch(shop: Any, strategy: str) -> None:
    world, examples = shop
    order = np.random.default_rng(0).permutation(len(examples))[: len(examples) - 3]
    whole, part = sample(world, examples, strategy), sample(world, examples.take(order), strategy)
    for name, nodes in whole.nodes.items():
        for hop in (1, 2, 3):
            ours, theirs = of_hop(whole, name, hop), of_hop(part, name, hop)
            for place, example in enumerate(order):
                mine = nodes.rows[ours][nodes.examples[ours] == example]
                again = part.nodes[name].rows[theirs][part.nodes[name].examples[theirs] == place]
                np.testing.assert_array_equal(mine, again)


def test_other_seeds_draw_other_rows(shop: Any) -> None:
    world, examples = shop
    seeds = world.seeds(examples)
    sampler = Sampler(world.graph, (2,), "uniform")
    drawn = [
        sampler.sample(seeds.rows, seeds.hashes, seeds.times, seeds.limits, seed=seed).nodes["transactions"].rows
        for seed in (1, 2)
    ]
    assert (drawn[0] != drawn[1]).any()


@st.composite
def futures(draw: st.DrawFn) -> dict[str, list[Any]]:
    """The transactions with all that come after a day deleted, moved or changed, or more of them."""
    bought = shop_tables()["transactions"]
    rows: list[list[Any]] = [list(row) for row in zip(*bought.values(), strict=True)]
    kept = [row for row in rows if row[2] <= LATER]
    after = [row for row in rows if row[2] > LATER]
    fate = draw(st.sampled_from(["deleted", "moved", "changed", "more"]))
    if fate == "deleted":
        after = after[: draw(st.integers(0, 20))]
    if fate == "moved":
        after = [[*row[:2], row[2] + timedelta(days=draw(st.integers(0, 50))), row[3]] for row in after]
    if fate == "changed":
        after = [["c1", row[1], row[2], draw(st.floats(-1e6, 1e6))] for row in after[:50]]
    if fate == "more":
        after = after * 3
    rows = draw(st.permutations(kept[-40:])) + kept[:-40] + after
    return dict(zip(bought, map(list, zip(*rows, strict=True)), strict=True))


@given(changed=futures(), strategy=st.sampled_from(STRATEGIES))
@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
def test_nothing_later_changes_a_sample_or_what_is_learnt_of_columns(
    changed: dict[str, list[Any]], strategy: str, shop: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    world, examples = shop
    before = sample(world, examples, strategy)
    with world_of(written(tmp_path_factory.mktemp("future"), changed)) as (other, _):
        after = sample(other, examples, strategy)
    assert other.reading.document() == world.reading.document()
    for name, nodes in before.nodes.items():
        np.testing.assert_array_equal(after.nodes[name].rows, nodes.rows)
        np.testing.assert_array_equal(after.nodes[name].examples, nodes.examples)
        np.testing.assert_array_equal(after.nodes[name].counts, nodes.counts)
    for ours, theirs in zip(before.edges, after.edges, strict=True):
        for mine, again in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(mine.sources, again.sources)
            np.testing.assert_array_equal(mine.targets, again.targets)
