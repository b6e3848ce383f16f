"""Turns and ratios; no time is asserted."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from lavakv.bench.clock import in_turn, interleaved, median, median_ratio, seconds_of


@pytest.mark.parametrize("names", [["a"], ["a", "b"], ["a", "b", "c", "d"]])
def test_everyone_runs_once_a_round(names) -> None:
    ran: list[str] = []
    seconds = interleaved({name: lambda: float(len(ran)) for name in names}, rounds=4, begins=ran.append)
    assert {name: len(values) for name, values in seconds.items()} == dict.fromkeys(names, 4)
    size = len(names)
    assert all(sorted(ran[start : start + size]) == names for start in range(0, 4 * size, size))


def test_nobody_always_comes_first_or_follows_the_same_one() -> None:
    names = ["a", "b", "c", "d"]
    orders = [in_turn(names, index) for index in range(4)]
    assert len({order[0] for order in orders}) > 1
    followed = {name: {b for order in orders for a, b in pairwise(order) if a == name} for name in names}
    assert all(len(after) > 1 for after in followed.values())


def test_ratios_are_of_pairs() -> None:
    assert median_ratio([2.0, 9.0, 4.0], [1.0, 3.0, 1.0]) == 3.0
    assert median_ratio([], []) is None
    assert median([]) is None


def test_seconds_are_positive() -> None:
    assert seconds_of(lambda: torch.ones(1000).sum(), torch.device("cpu")) > 0
