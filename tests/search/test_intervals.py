import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import bootstrap

from tuneloop.search.intervals import Interval, mean_intervals

VALUES = hnp.arrays(np.float64, st.integers(2, 40), elements=st.floats(-1, 1, width=32))


def interval(values, groups=None, **more):
    groups = np.arange(len(values)) if groups is None else groups
    return mean_intervals({"x": np.asarray(values, float)}, np.asarray(groups), **more)["x"]


@given(VALUES, st.integers(0, 5))
def test_the_bounds_stand_around_the_mean_and_within_the_values(values, seed):
    found = interval(values, draws=200, seed=seed)
    assert found.value == pytest.approx(values.mean())
    assert found.low <= found.value <= found.high
    assert values.min() - 1e-9 <= found.low and found.high <= values.max() + 1e-9


@given(VALUES, st.integers(-3, 3), st.integers(-5, 5))
def test_an_interval_moves_and_stretches_with_its_values(values, power, shift):
    values = np.round(values * 64) / 64  # sums stay exact
    before, after = (interval(each, draws=200) for each in (values, values * 2.0**power + shift))
    for name in ("value", "low", "high"):
        assert getattr(after, name) == pytest.approx(getattr(before, name) * 2.0**power + shift, abs=1e-9)


@given(st.integers(2, 50), st.integers(2, 50))
def test_no_difference_has_no_width(sessions, queries):
    assert interval(np.zeros(sessions), np.arange(sessions) % queries, draws=100) == Interval(0.0, 0.0, 0.0)


@given(VALUES, st.lists(st.integers(0, 39), max_size=10))
def test_sessions_without_a_value_are_left_out(values, places):
    with_gaps = np.insert(values, np.minimum(places, len(values)).astype(int), np.nan)
    assert interval(with_gaps, draws=100).value == pytest.approx(values.mean())


@given(VALUES)
def test_the_same_seed_gives_the_same_interval(values):
    assert interval(values, draws=100, seed=4) == interval(values, draws=100, seed=4)


def test_the_bounds_agree_with_scipy():
    values = np.random.default_rng(1).exponential(size=60)  # lopsided: the percentile interval is another
    theirs = bootstrap((values,), np.mean, n_resamples=20_000, method="BCa", rng=2).confidence_interval
    ours = interval(values, draws=20_000)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.015)
    percentile = bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=2).confidence_interval
    assert abs(ours.high - percentile.high) > 0.015


@pytest.mark.parametrize("sessions_of_a_query", [1, 4])
def test_nineteen_of_twenty_intervals_hold_the_true_mean(sessions_of_a_query):
    """Differences in nDCG as they are: mostly none, else lopsided, and alike for the sessions of one query."""
    rng, trials, queries = np.random.default_rng(0), 400, 120
    truth = 0.4 * (rng.beta(2, 5, 10**6) - 0.2).mean()
    hits = 0
    for trial in range(trials):
        of_query = (rng.random(queries) < 0.4) * (rng.beta(2, 5, queries) - 0.2)
        groups = np.repeat(np.arange(queries), sessions_of_a_query)
        hits += truth in interval(of_query[groups], groups, draws=400, seed=trial)
    assert 0.92 <= hits / trials <= 0.98


def test_sessions_of_one_query_are_no_independent_witnesses():
    of_query = np.random.default_rng(0).normal(size=30)
    groups = np.repeat(np.arange(30), 10)
    once, often = interval(of_query), interval(of_query[groups], groups)
    assert (often.low, often.high) == pytest.approx((once.low, once.high))


def test_all_series_share_the_draws():
    """So the interval of a difference that is the same everywhere has no width, however wide those of its parts."""
    before = np.random.default_rng(0).random(50)
    found = mean_intervals({"before": before, "after": before + 0.1, "gain": before + 0.1 - before}, np.arange(50))
    assert found["after"].low == pytest.approx(found["before"].low + 0.1)
    assert found["gain"].high - found["gain"].low < 1e-9 < 0.1 < found["after"].high - found["after"].low


def test_one_query_alone_gives_no_interval():
    values = np.array([0.1, 0.2, np.nan])
    assert mean_intervals({"x": values}, np.array([7, 7, 8])) == {}
    assert mean_intervals({"x": np.full(3, np.nan)}, np.arange(3)) == {}
    assert mean_intervals({"x": np.zeros(0)}, np.zeros(0, np.int64)) == {}
    assert mean_intervals({}, np.arange(3)) == {}


def test_many_groups_are_drawn_in_parts(monkeypatch):
    values = np.random.default_rng(0).random(70)
    whole = interval(values, draws=50)
    monkeypatch.setattr("tuneloop.search.intervals.MAX_WEIGHTS", 300)
    parts = interval(values, draws=50)
    assert parts.value == whole.value and parts.low < parts.value < parts.high
