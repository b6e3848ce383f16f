from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from lavakv.budgets.naive import pyramid_weights_naive
from lavakv.budgets.split import pyramid_weights


@given(st.integers(1, 500), st.integers(1, 500), st.lists(st.integers(1, 4), min_size=1, max_size=40))
def test_the_pyramid_equals_its_naive_twin(mean: int, spare: int, num_heads: list[int]) -> None:
    weights = pyramid_weights(mean, mean + spare, num_heads)
    unit = Fraction(1, 20 * max(len(num_heads) - 1, 1)) if len(num_heads) > 1 else Fraction(1)
    exact = pyramid_weights_naive(mean, mean + spare, num_heads)
    assert [Fraction(weight) * unit for weight in weights] == exact
    slopes = [weight / heads for weight, heads in zip(exact, num_heads, strict=True)]
    assert all(early >= late > 0 for early, late in pairwise(slopes))
    assert max(slopes) <= mean + spare
    assert sum(slopes) == mean * len(num_heads)


def test_the_ends_are_those_of_the_paper() -> None:
    assert pyramid_weights(100, 1000, [1, 1, 1]) == [40 * entries for entries in (195, 100, 5)]
    assert pyramid_weights(100, 1000, [2, 1, 4]) == [40 * entries for entries in (390, 100, 20)]
    assert pyramid_weights(100, 150, [1, 1, 1]) == [40 * entries for entries in (150, 100, 50)]
    assert pyramid_weights(100, 195, [1, 1]) == [20 * entries for entries in (195, 5)]
    assert pyramid_weights(100, 150, [3]) == [300.0]
