"""Link metrics are what RelBench defines, in examples of every shape."""

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuneloop.relational.learner import Links
from tuneloop.relational.metrics import link_values, measure_links

KEYS = [f"a{number}" for number in range(12)]
WIDTH = 5
Example = tuple[list[str], list[str]]  # what it was linked to, and what was predicted

examples = st.lists(
    st.tuples(
        st.lists(st.sampled_from(KEYS), max_size=8), st.lists(st.sampled_from(KEYS), max_size=WIDTH, unique=True)
    ),
    min_size=1,
    max_size=8,
)


def as_links(predicted: list[list[str]]) -> Links:
    padded = [[*each, *[None] * (WIDTH - len(each))] for each in predicted]
    scores = np.array([[-float(at) if key is not None else -np.inf for at, key in enumerate(each)] for each in padded])
    return Links(pa.array([key for each in padded for key in each], pa.string()), scores)


def plainly(name: str, k: int, given: list[Example]) -> float:
    values = []
    for true, predicted in given:
        if not true:
            continue
        hits = [key in true for key in predicted[:k]]
        if name == "precision":
            values.append(sum(hits) / k)
        elif name == "recall":
            values.append(sum(hits) / len(set(true)))
        else:
            precisions = [sum(hits[: at + 1]) / (at + 1) for at, hit in enumerate(hits) if hit]
            values.append(sum(precisions) / min(k, len(set(true))))
    return sum(values) / len(values) if values else math.nan


@settings(deadline=None)
@given(examples, st.sampled_from(["map", "precision", "recall"]), st.integers(1, 9))
def test_as_a_plain_loop_says(given: list[Example], name: str, k: int) -> None:
    labels = pa.array([true for true, _ in given], pa.list_(pa.string()))
    found = measure_links(f"{name}_at_{k}", labels, as_links([predicted for _, predicted in given]))
    assert found == pytest.approx(plainly(name, k, given), nan_ok=True)


def test_by_hand() -> None:
    labels = pa.chunked_array([[["a0", "a1"]], [["a2"], []]])
    links = as_links([["a0", "a5", "a1"], ["a5", "a2"], ["a1"]])
    assert link_values("map_at_3", labels, links).tolist() == pytest.approx([(1 + 2 / 3) / 2, 1 / 2])
    assert measure_links("recall_at_1", labels, links) == pytest.approx((1 / 2 + 0) / 2)
    assert measure_links("precision_at_3", labels, links) == pytest.approx((2 / 3 + 1 / 3) / 2)


def test_keys_of_another_width_are_the_same_keys() -> None:
    links = Links(pa.array([3, 1], pa.int64()), np.zeros((1, 2)))
    assert measure_links("map_at_2", pa.array([[1]], pa.list_(pa.int32())), links) == 0.5
