import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import ndcg_score

from tuneloop.search import metrics


@st.composite
def lists(draw, *, distinct=False):
    """Ragged lists of scores and gains."""
    lengths = draw(st.lists(st.integers(1, 15), min_size=1, max_size=6))
    total = sum(lengths)
    scores = draw(
        hnp.arrays(np.float64, total, elements=st.integers(-50, 50).map(float), unique=distinct and total < 100)
    )
    gains = draw(hnp.arrays(np.float64, total, elements=st.sampled_from([0.0, 0.0, 1.0, 2.5, 10.0])))
    return scores, gains, np.concatenate([[0], np.cumsum(lengths)])


def each(starts):
    return itertools.pairwise(starts)


@given(lists())
def test_the_metrics_lie_between_zero_and_one_and_are_nan_without_a_gain(data):
    scores, gains, starts = data
    for metric in (metrics.ndcg, metrics.reciprocal_rank, metrics.recall):
        for value, (start, end) in zip(metric(scores, gains, starts), each(starts), strict=True):
            assert np.isnan(value) if not gains[start:end].any() else 0 <= value <= 1 + 1e-12


@given(lists())
def test_the_metrics_agree_with_a_slow_reference(data):
    scores, gains, starts = data
    found = (
        metrics.ndcg(scores, gains, starts),
        metrics.reciprocal_rank(scores, gains, starts),
        metrics.recall(scores, gains, starts),
    )
    for at, (start, end) in enumerate(each(starts)):
        ranked = [gains[result] for result in sorted(range(start, end), key=lambda result: (-scores[result], result))]
        if not any(ranked):
            continue
        discounts = [1 / np.log2(rank + 1) for rank in range(1, 11)]
        ideal = sum(gain * discount for gain, discount in zip(sorted(ranked, reverse=True), discounts, strict=False))
        dcg = sum(gain * discount for gain, discount in zip(ranked, discounts, strict=False))
        first = next(rank for rank, gain in enumerate(ranked, 1) if gain > 0)
        assert found[0][at] == pytest.approx(dcg / ideal)
        assert found[1][at] == pytest.approx(1 / first)
        assert found[2][at] == pytest.approx(sum(ranked[:10]) / sum(ranked))


@given(lists(distinct=True))
def test_ndcg_agrees_with_scikit_learn(data):
    scores, gains, starts = data
    for at, (start, end) in enumerate(each(starts)):
        if end - start > 1 and gains[start:end].any():
            expected = ndcg_score([gains[start:end]], [scores[start:end]], k=10)
            assert metrics.ndcg(scores, gains, starts)[at] == pytest.approx(expected)


@given(lists(), st.floats(0.1, 10), st.floats(-5, 5))
def test_only_the_order_of_scores_counts(data, scale, shift):
    scores, gains, starts = data
    np.testing.assert_allclose(
        metrics.ndcg(scores, gains, starts), metrics.ndcg(np.round(scores * 4) * scale + shift, gains, starts)
    )


@given(lists(distinct=True), st.randoms())
def test_the_order_in_which_results_are_listed_does_not_count(data, chance):
    scores, gains, starts = data
    order = np.concatenate(
        [np.array(chance.sample(range(start, end), end - start)) for start, end in each(starts.tolist())]
    )
    for metric in (metrics.ndcg, metrics.reciprocal_rank, metrics.recall):
        np.testing.assert_allclose(metric(scores, gains, starts), metric(scores[order], gains[order], starts))


def test_of_equal_scores_the_result_shown_first_ranks_first():
    starts = np.array([0, 3])
    assert metrics.reciprocal_rank(np.zeros(3), np.array([0.0, 1.0, 0.0]), starts)[0] == 0.5


@given(st.integers(1, 10_000), st.floats(0, 3))
def test_a_click_weighs_more_the_further_down_it_was_up_to_the_limit(position, exponent):
    here, next_one = metrics.click_weights(np.array([position, position + 1]), exponent=exponent)
    assert 1 <= here <= next_one <= metrics.MAX_WEIGHT


def test_click_weights_follow_the_square_root_of_the_position():
    np.testing.assert_allclose(metrics.click_weights(np.array([1, 4, 9, 400])), [1, 2, 3, 10])


@given(lists(), st.floats(-3, 3))
def test_a_shift_is_zero_for_an_unchanged_model_and_moves_with_the_similarity(data, shift):
    before, gains, starts = data
    clicked = gains > 0
    nothing = metrics.clicked_shift(before, before, clicked, starts)
    assert not np.nan_to_num(nothing).any()
    moved = metrics.clicked_shift(before + shift, before, clicked, starts)
    np.testing.assert_allclose(moved[~np.isnan(moved)], shift, atol=1e-9)
    np.testing.assert_allclose(metrics.shown_shift(before + shift, before, starts), -shift, atol=1e-9)
    np.testing.assert_array_equal(
        np.isnan(moved), [not clicked[start:end].any() for start, end in each(starts.tolist())]
    )
