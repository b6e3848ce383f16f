from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from lavakv import BudgetError
from lavakv.budgets.divide import divide
from lavakv.budgets.naive import divide_naive
from tests.budgets.strategies import Split, splits, weights


@given(splits())
@example(Split(0, [1.0], [0]))
@example(Split(5, [1e300, 1e-300], [3, 10]))
@example(Split(13, [1e-300, 1e300, 0.0], [9, 2, 7]))
@example(Split(7, [0.0, 0.0, 0.0], [9, 1, 9]))
@example(Split(6, [5.0, 0.0, 0.0], [0, 3, 3]))
def test_divide_equals_handing_out_seats_one_by_one(split: Split) -> None:
    shares = divide(*split.tensors())
    assert shares.dtype == torch.int64
    assert shares.tolist() == divide_naive(*split)
    assert int(shares.sum()) == split.total
    assert all(0 <= share <= cap for share, cap in zip(shares.tolist(), split.caps, strict=True))


@given(st.lists(splits(), min_size=1, max_size=4))
def test_several_splits_at_once_equal_each_alone(several: list[Split]) -> None:
    parts = max(len(split.weights) for split in several)
    padded = [(split.total, [*split.weights, *[0.0] * missing], [*split.caps, *[0] * missing])
              for split in several for missing in [parts - len(split.weights)]]  # fmt: skip
    totals, weights, caps = (torch.tensor(column) for column in zip(*padded, strict=True))
    shares = divide(totals, weights.double(), caps)
    assert shares.tolist() == [divide_naive(*split) for split in padded]


@pytest.mark.parametrize("dwarfs", [1, 2, 8, 21])
@pytest.mark.parametrize("cap", [1, 2])
def test_one_giant_among_dwarfs(dwarfs: int, cap: int) -> None:
    """Dwarfs that all just get a seat, or all just miss it, pull the giant far from its real-valued share."""
    weights, caps = [1.0] * dwarfs + [float(dwarfs)], [cap] * dwarfs + [60]
    for total in range(min(3 * dwarfs, sum(caps)) + 1):
        shares = divide(total, torch.tensor(weights), torch.tensor(caps))
        assert shares.tolist() == divide_naive(total, weights, caps)


@given(splits())
def test_a_smaller_total_never_raises_a_share(split: Split) -> None:
    _, weights, caps = split.tensors()
    shares = [divide(total, weights, caps) for total in range(split.total + 1)]
    assert all(bool((less <= more).all()) for less, more in pairwise(shares))


@given(splits(), weights, st.integers(0, 14))
def test_a_further_part_never_raises_a_share(split: Split, weight: float, cap: int) -> None:
    more = Split(split.total, [*split.weights, weight], [*split.caps, cap])
    assert bool((divide(*more.tensors())[:-1] <= divide(*split.tensors())).all())


def test_ties_go_to_the_lower_index() -> None:
    assert divide(2, torch.ones(3), torch.tensor([5, 5, 5])).tolist() == [1, 1, 0]


def test_weights_of_any_float_dtype_and_stride_are_taken() -> None:
    weights = torch.tensor([[1.0, 9.0], [2.0, 9.0], [1.0, 9.0]], dtype=torch.bfloat16)[:, 0]
    assert divide(4, weights, torch.tensor([9, 9, 9])).tolist() == [1, 2, 1]


@pytest.mark.parametrize("total", [-1, 7])
def test_a_total_out_of_reach_is_refused(total: int) -> None:
    with pytest.raises(BudgetError, match=r"total: expected between 0 and the sum of the caps, 6, got -?\d"):
        divide(total, torch.ones(2), torch.tensor([3, 3]))
