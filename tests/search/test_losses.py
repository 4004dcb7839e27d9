import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tuneloop.search.data import Sampler
from tuneloop.search.losses import LOSSES, contrastive, distillation, margin_ranking
from tuneloop.search.sessions import Sessions

SESSIONS = Sessions(  # one clicked its second of three results, one its first of two, one was irrelevant
    query=np.array([0, 1, 2]),
    irrelevant=np.array([False, False, True]),
    starts=np.array([0, 3, 5, 7]),
    result=np.array([3, 4, 5, 6, 7, 3, 8]),
    clicked=np.array([False, True, False, True, False, False, False]),
    position=np.array([1, 2, 3, 1, 2, 1, 2]),
)
BATCH = Sampler(SESSIONS, batch_size=3, negative_share=1).batch(np.arange(3), np.random.default_rng(0))
NAMES = sorted(LOSSES)


def gradient(loss, scores, batch=BATCH, **params):
    scores = scores.clone().requires_grad_(True)
    loss(scores, batch, **({"margin": 0.1, "temperature": 0.05, "robustness": 0.0} | params)).backward()
    return scores.grad


@pytest.mark.parametrize("name", NAMES)
@given(seed=st.integers(0, 1000), margin=st.floats(0, 0.5), temperature=st.floats(0.02, 1), robustness=st.floats(0, 1))
def test_a_loss_is_positive_and_pulls_clicked_and_pushes_other_results(name, seed, margin, temperature, robustness):
    scores = torch.rand(3, 6, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    args = {"margin": margin, "temperature": temperature, "robustness": robustness}
    assert LOSSES[name](scores, BATCH, **args) >= 0
    slope = gradient(LOSSES[name], scores, **args)
    assert slope[0, 1] <= 0 and slope[1, 3] <= 0  # the clicked ones come nearer
    assert slope[0, 0] >= 0 and slope[0, 2] >= 0 and slope[1, 4] >= 0  # the others go away
    assert slope[2, 0] > 0 and slope[2, 5] > 0  # so does all that an irrelevant session showed


@pytest.mark.parametrize("name", NAMES)
def test_a_better_order_costs_less(name):
    bad, good = torch.zeros(3, 6), torch.zeros(3, 6)
    bad[0, 0] = bad[1, 4] = good[0, 1] = good[1, 3] = 0.5
    args = {"margin": 0.0, "temperature": 0.05, "robustness": 0.5}
    assert LOSSES[name](good, BATCH, **args) < LOSSES[name](bad, BATCH, **args)


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_the_sessions_does_not_count(name):
    other = Sampler(SESSIONS, batch_size=3, negative_share=1).batch(np.array([2, 0, 1]), np.random.default_rng(1))
    scores = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    args = {"margin": 0.1, "temperature": 0.05, "robustness": 0.5}
    assert LOSSES[name](scores, BATCH, **args) == pytest.approx(float(LOSSES[name](scores, other, **args)), rel=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_a_larger_margin_costs_more(name):
    scores = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    args = {"temperature": 0.05, "robustness": 0.0}
    assert LOSSES[name](scores, BATCH, margin=0.2, **args) > LOSSES[name](scores, BATCH, margin=0.0, **args)


@pytest.mark.parametrize("name", NAMES)
def test_the_more_robust_a_loss_the_less_it_heeds_an_implausible_click(name):
    scores = torch.zeros(3, 6)
    scores[0, 1], scores[1, 3] = -0.5, 0.5  # the first session's click is an odd one, the second's is as expected
    pulls = []
    for robustness in (0.0, 0.5, 1.0):
        slope = gradient(LOSSES[name], scores, temperature=0.2, robustness=robustness)
        pulls.append(float(slope[0, 1] / slope[1, 3]))
    assert pulls[0] > pulls[1] > pulls[2]


def test_without_robustness_the_cost_is_the_negative_log_likelihood_and_the_limit_of_a_little():
    scores = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    for loss in LOSSES.values():
        plain, little = (loss(scores, BATCH, margin=0.1, temperature=0.5, robustness=q) for q in (0.0, 1e-4))
        assert float(little) == pytest.approx(float(plain), rel=1e-2)


def test_contrastive_is_its_formula():
    scores = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    found = contrastive(scores, BATCH, margin=0.1, temperature=0.5, robustness=0.5) * 3
    expected = 0.0
    for query, click in ((0, 1), (1, 3)):
        right = torch.exp((scores[query, click] - 0.1) / 0.5)
        wrong = sum(torch.exp(scores[query, item] / 0.5) for item in range(6) if item != click)
        expected += (1 - (right / (right + wrong)) ** 0.5) / 0.5
    expected += away_of(scores)
    assert float(found) == pytest.approx(float(expected), rel=1e-5)


def away_of(scores):
    return sum(0.5 * torch.nn.functional.softplus((scores[2, item] - scores[2].mean() + 0.1) / 0.5) for item in (0, 5))


def test_margin_ranking_is_its_formula():
    scores = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    found = margin_ranking(scores, BATCH, margin=0.1, temperature=0.5, robustness=0.0) * 3
    pairs = [(0, 1, 0, 0.5), (0, 1, 2, 0.5), (1, 3, 4, 1.0)]
    expected = sum(
        -weight * torch.nn.functional.logsigmoid((scores[query, click] - scores[query, other] - 0.1) / 0.5)
        for query, click, other, weight in pairs
    )
    expected += away_of(scores)
    assert float(found) == pytest.approx(float(expected), rel=1e-5)


def test_of_several_clicks_one_that_is_near_is_enough():
    sessions = Sessions(
        np.array([0]), np.array([False]), np.array([0, 3]), np.arange(1, 4), np.array([1, 1, 0], bool), np.arange(1, 4)
    )
    batch = Sampler(sessions, batch_size=1, negative_share=1).batch(np.arange(1), np.random.default_rng(0))
    args = {"margin": 0.0, "temperature": 0.1, "robustness": 0.0}
    one, both, none = (
        contrastive(torch.tensor([row]), batch, **args) for row in ([1.0, -1, 0], [1.0, 1, 0], [-1.0, -1, 0])
    )
    assert float(one) == pytest.approx(float(both), abs=1e-3) and none > one + 1


def test_an_item_clicked_for_the_same_query_elsewhere_is_no_negative():
    sessions = Sessions(
        query=np.array([0, 0]),
        irrelevant=np.zeros(2, bool),
        starts=np.array([0, 2, 4]),
        result=np.array([1, 2, 2, 3]),
        clicked=np.array([True, False, True, False]),
        position=np.array([1, 2, 1, 2]),
    )
    batch = Sampler(sessions, batch_size=2, negative_share=1).batch(np.arange(2), np.random.default_rng(0))
    slope = gradient(contrastive, torch.zeros(1, 3), batch)
    assert slope[0, 0] < 0 and slope[0, 1] < 0 and slope[0, 2] > 0
    # What was clicked in either session competes with the one item that the query never clicked.
    assert float(contrastive(torch.zeros(1, 3), batch, margin=0, temperature=0.05, robustness=0)) == pytest.approx(
        np.log(1.5)
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_of_single_results_is_no_error(name):
    one = Sessions(np.array([0]), np.array([False]), np.array([0, 1]), np.array([1]), np.array([True]), np.array([1]))
    batch = Sampler(one, batch_size=1, negative_share=1).batch(np.arange(1), np.random.default_rng(0))
    slope = gradient(LOSSES[name], torch.zeros(1, 1), batch)
    assert torch.isfinite(slope).all()


@pytest.mark.parametrize("name", NAMES)
def test_by_inverse_propensities_the_click_further_down_pulls_more(name):
    sampler = Sampler(SESSIONS, batch_size=3, negative_share=1, propensity_exponent=1.0)
    batch = sampler.batch(np.arange(3), np.random.default_rng(0))
    plain, weighed = (gradient(LOSSES[name], torch.zeros(3, 6), each, margin=0.0) for each in (BATCH, batch))
    # The clicks were at positions 2 and 1; their weights are 2 and 1 over the mean, 1.5.
    assert float(weighed[0, 1] / plain[0, 1]) == pytest.approx(4 / 3, rel=1e-5)
    assert float(weighed[1, 3] / plain[1, 3]) == pytest.approx(2 / 3, rel=1e-5)
    assert torch.equal(weighed[2], plain[2])


@given(seed=st.integers(0, 1000), temperature=st.floats(0.02, 1), shift=st.floats(-1, 1))
def test_distillation_is_zero_where_the_start_model_is_kept_and_pulls_back_to_it(seed, temperature, shift):
    chance = torch.Generator().manual_seed(seed)
    start, scores = (torch.rand(3, 6, generator=chance) * 2 - 1 for _ in range(2))
    # All similarities of a query may move together.
    assert float(distillation(start + shift, start, temperature=temperature)) == pytest.approx(0, abs=1e-5)
    assert distillation(scores, start, temperature=temperature) > 0
    scores.requires_grad_(True)
    distillation(scores, start, temperature=temperature).backward()
    expected = (torch.softmax(scores / temperature, 1) - torch.softmax(start / temperature, 1)) / temperature / 3
    torch.testing.assert_close(scores.grad, expected.detach(), rtol=1e-3, atol=1e-5)
