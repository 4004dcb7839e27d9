"""Products of eight-bit numbers, beside those of fp32 ones."""

import pytest
import torch
from torch.nn.functional import gelu, linear

from tuneloop.search.products import EightBitProduct, PlainProduct, WatchedProduct, has_eight_bits

pytestmark = pytest.mark.skipif(not has_eight_bits(), reason="the processor has no eight-bit products")


@pytest.mark.parametrize("far", [1.0, 50.0])
def test_eight_bits_are_near_even_where_some_channels_reach_far(far):
    torch.manual_seed(0)
    weight, bias, states = torch.randn(96, 64) / 8, torch.randn(96), torch.randn(500, 64)
    states[:, 7] *= far
    added = torch.randn(500, 96).bfloat16()
    watched = WatchedProduct(PlainProduct(weight, bias, torch.bfloat16, rows=512))
    for part in states.bfloat16().split(100):  # what is seen, some by each way to compute it
        watched(part, added[:100])
        watched.gelu(part)
    product, given = EightBitProduct(watched), states.bfloat16()
    exact = linear(states, weight, bias)
    for found, expected in (
        (product(given), exact),
        (product(given, added), exact + added),
        (product.gelu(given), gelu(exact)),
    ):
        assert found.dtype == torch.bfloat16
        assert (found - expected).norm() / expected.norm() < 0.02
    assert given.equal(states.bfloat16())  # left as it was


def test_rounding_the_weights_leaves_the_mean_of_an_output():
    torch.manual_seed(0)
    weight, bias, states = torch.randn(32, 64), torch.zeros(32), (torch.randn(1000, 64) + 5).bfloat16()
    watched = WatchedProduct(PlainProduct(weight, bias, torch.bfloat16, rows=512))
    watched(states[:300])
    watched(states[300:])
    expected = linear(states.float(), weight.bfloat16().float())
    error = (EightBitProduct(watched)(states) - expected).mean(0)
    assert error.abs().mean() < 0.05


def test_states_that_reach_further_than_those_seen_are_not_cut_off():
    torch.manual_seed(0)
    weight, bias, states = torch.randn(32, 64), torch.zeros(32), torch.randn(100, 64)
    watched = WatchedProduct(PlainProduct(weight, bias, torch.bfloat16, rows=512))
    watched(states.bfloat16())
    expected = linear(20 * states, weight)
    assert (EightBitProduct(watched)((20 * states).bfloat16()) - expected).norm() / expected.norm() < 0.02
