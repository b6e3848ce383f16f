from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lavakv.budgets.naive import pyramid_weights_naive
from lavakv.budgets.pyramid import pyramid_weights

EPSILON = math.ulp(1.0)


@given(st.integers(1, 500), st.integers(1, 500), st.lists(st.integers(1, 4), min_size=1, max_size=40))
def test_the_pyramid_equals_its_naive_twin(mean: int, spare: int, num_heads: list[int]) -> None:
    weights = pyramid_weights(mean, mean + spare, num_heads)
    # No intermediate exceeds twice the mean; each of the few operations rounds once.
    bound = 8 * EPSILON * 2 * mean * max(num_heads)
    for weight, exact in zip(weights, pyramid_weights_naive(mean, mean + spare, num_heads), strict=True):
        assert abs(weight - exact) <= bound
        assert weight > 0
    slopes = [weight / heads for weight, heads in zip(weights, num_heads, strict=True)]
    assert all(early >= late for early, late in pairwise(slopes))
    assert max(slopes) <= mean + spare + bound
    assert math.fsum(slopes) == pytest.approx(mean * len(num_heads), rel=1e-12)


def test_the_ends_are_those_of_the_paper() -> None:
    assert pyramid_weights(100, 1000, [1, 1, 1]) == [195.0, 100.0, 5.0]
    assert pyramid_weights(100, 1000, [2, 1, 4]) == [390.0, 100.0, 20.0]
    assert pyramid_weights(100, 150, [1, 1, 1]) == [150.0, 100.0, 50.0]
    assert pyramid_weights(100, 195, [1, 1]) == [195.0, 5.0]
    assert pyramid_weights(100, 150, [3]) == [300.0]
