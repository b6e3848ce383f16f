from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lavakv import BudgetError, worst_case_entries
from lavakv.budgets.naive import layer_budgets_naive
from lavakv.budgets.split import layer_budgets
from tests.budgets.strategies import weights

layers = st.lists(st.tuples(weights, st.integers(0, 40)), min_size=1, max_size=8)  # weight and cap of each


@given(layers, st.integers(0, 200))
def test_layer_budgets_equal_their_naive_twin(layers: list[tuple[float, int]], total: int) -> None:
    weights, caps = [weight for weight, _ in layers], [cap for _, cap in layers]
    shares = layer_budgets(total, torch.tensor(weights, dtype=torch.float64), caps).tolist()
    assert shares == layer_budgets_naive(total, weights, caps)
    assert sum(shares) == min(total, sum(caps))


@given(layers, st.integers(0, 200))
def test_layer_budgets_only_shrink_as_layers_become_known(layers: list[tuple[float, int]], total: int) -> None:
    weights = torch.tensor([weight for weight, _ in layers], dtype=torch.float64)
    caps = [cap for _, cap in layers]
    before = layer_budgets(total, weights[:1], caps[:1])
    for known in range(2, len(layers) + 1):
        now = layer_budgets(total, weights[:known], caps[:known])
        assert bool((now[:-1] <= before).all())
        before = now


def test_a_short_prompt_is_held_whole() -> None:
    assert worst_case_entries(100, 256, [2, 3], 32) == (500, 300, 500)


def test_final_entries_are_the_budget_times_the_heads() -> None:
    worst = worst_case_entries(1000, 256, [2, 3], 32)
    assert worst.final == 256 * 5
    assert worst.layer == 224 * 5 + 32 * 3  # all that is kept before the window, in the widest layer
    assert worst.final <= worst.peak


@pytest.mark.parametrize("budget", [0, 31, 32])
def test_no_bound_is_given_for_a_budget_that_cannot_be(budget: int) -> None:
    with pytest.raises(BudgetError, match=r"^budget: "):
        worst_case_entries(1000, budget, [2], 32)
