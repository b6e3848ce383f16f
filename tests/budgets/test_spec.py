from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lavakv import BudgetError, InputError
from lavakv.budgets.spec import BudgetSpec, check_kv_bits
from tests.errors import assert_all_parts

BAD_COUNTS = [0, -1, 2.0, 2.5, True, "32", [32]]


def test_the_default_is_256_tokens_and_a_window_of_32() -> None:
    assert BudgetSpec() == BudgetSpec(budget=256, window=32)
    assert BudgetSpec(keep=0.5).budget is None


@pytest.mark.parametrize("argument", ["budget", "window"])
@pytest.mark.parametrize("value", BAD_COUNTS)
def test_a_bad_count_is_refused(argument: str, value: object) -> None:
    with pytest.raises(BudgetError, match=f"^{argument}: ") as caught:
        BudgetSpec(**{argument: value})  # type: ignore[arg-type]
    assert_all_parts(caught.value, got=repr(value))


@pytest.mark.parametrize("value", [0, 0.0, -0.1, 1.01, 2, math.nan, math.inf, -math.inf, True, "0.5", 10**400])
def test_a_bad_fraction_is_refused(value: object) -> None:
    with pytest.raises(BudgetError, match=r"^keep: ") as caught:
        BudgetSpec(keep=value)  # type: ignore[arg-type]
    assert_all_parts(caught.value, got=repr(value))


@pytest.mark.parametrize("value", [-0.01, 1, 1.0, 2, math.nan, math.inf, -math.inf, True, "0.05", 10**400])
def test_a_bad_tolerance_is_refused(value: object) -> None:
    with pytest.raises(BudgetError, match=r"^max_loss: ") as caught:
        BudgetSpec(max_loss=value)  # type: ignore[arg-type]
    assert_all_parts(caught.value, got=repr(value))


@pytest.mark.parametrize("value", [0, 0.0, 0.05, 0.999])
def test_a_tolerance_says_no_more_than_the_least_budget_beforehand(value: float) -> None:
    spec = BudgetSpec(max_loss=value, window=8)
    assert spec.max_loss == value
    assert spec.budget is None
    assert spec.tokens_per_head([5, 100], 0, 1) == [9, 9]


@pytest.mark.parametrize(
    ("given_ways", "named"),
    [
        ({"budget": 64, "keep": 0.5}, "budget and keep"),
        ({"keep": 0.5, "max_bytes": 1}, "keep and max_bytes"),
        ({"budget": 64, "keep": 0.5, "max_bytes": "1MB"}, "budget and keep and max_bytes"),
        ({"max_bytes": "1MB", "max_loss": 0.0}, "max_bytes and max_loss"),
    ],
)
def test_one_way_at_a_time(given_ways: dict[str, object], named: str) -> None:
    with pytest.raises(BudgetError, match=f"^{named}: ") as caught:
        BudgetSpec(**given_ways)  # type: ignore[arg-type]
    assert_all_parts(caught.value)


@pytest.mark.parametrize("budget", [1, 31, 32])
def test_a_budget_within_the_window_only_serves_prompts_within_the_budget(budget: int) -> None:
    spec = BudgetSpec(budget=budget, window=32)
    assert spec.tokens_per_head([budget], 0, 1) == [budget]
    with pytest.raises(BudgetError, match=f"more than the window of 32 tokens for a prompt of {budget + 1}") as caught:
        spec.tokens_per_head([1, budget + 1], 0, 1)
    assert_all_parts(caught.value, got=str(budget))


@given(st.floats(0, 1, exclude_min=True), st.lists(st.integers(1, 999), min_size=1), st.integers(1, 40))
def test_kept_fractions_count_for_each_sequence_by_itself(keep: float, lengths: list[int], window: int) -> None:
    budgets = BudgetSpec(keep=keep, window=window).tokens_per_head(lengths, 0, 1)
    assert budgets == [max(round(keep * length), window + 1) for length in lengths]


@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=5), st.integers(1, 9), st.integers(0, 99), st.integers(1, 2000)
)
def test_bytes_buy_the_largest_budget_that_fits(lengths: list[int], window: int, fixed: int, limit: int) -> None:
    token = 7

    def entries(budget: int) -> int:
        return sum(min(budget, length) for length in lengths)

    fitting = [b for b in range(window + 1, max(*lengths, window + 1) + 1) if fixed + entries(b) * token <= limit]
    spec = BudgetSpec(max_bytes=limit, window=window)
    if not fitting:
        with pytest.raises(BudgetError, match=r"^max_bytes: expected at least \d+ bytes") as caught:
            spec.tokens_per_head(lengths, fixed, token)
        needed = int(re.findall(r"\d+", caught.value.expected)[0])
        assert needed == fixed + entries(window + 1) * token
        return
    (budget,) = set(spec.tokens_per_head(lengths, fixed, token))
    assert entries(budget) == entries(max(fitting))


@pytest.mark.parametrize("bits", [None, 8, 4])
def test_known_bits_pass(bits: int | None) -> None:
    assert check_kv_bits(bits) == bits


@pytest.mark.parametrize("bits", [2, 16, 0, -4, True, "4", 4.0, [8]])
def test_other_bits_are_named(bits: object) -> None:
    with pytest.raises(InputError, match="kv_bits: expected 8, 4 or None") as caught:
        check_kv_bits(bits)
    assert_all_parts(caught.value, got=repr(bits))
