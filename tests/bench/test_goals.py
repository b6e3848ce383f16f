"""Goals and where their measurements come from."""

from __future__ import annotations

from typing import Any

import pytest

from lavakv.bench.goals import Goal, generate_goals, largest_goals


def _decoding(**seconds: float) -> dict[str, Any]:
    return {
        name: {"setup_seconds": 0.5, "bytes_beyond_cache": 10**8, "ratio_to_floor": 1.5, "tokens_per_second": 1 / value}
        for name, value in seconds.items()
    }


def test_goals_are_read_from_the_right_places() -> None:
    row = {
        "tokens": 131072, "batch_size": 1,
        "ratios": {"lavakv_graph_to_full": 0.4, "lavakv_graph_to_cut_graph": 1.02},
        "decoding": _decoding(lavakv_graph=0.007, lavakv_compiled=0.005),
    }  # fmt: skip
    values = [goal.value for goal in generate_goals(row)]
    assert values == pytest.approx([1.02, 2.5, 1.5, 0.5, 100])
    largest = {
        "full_random": {"batch_size": 14, "decoding": _decoding(x=0.01)["x"]},
        "lavakv_graph": {"batch_size": 420, "decoding": _decoding(x=0.001)["x"]},
    }
    assert [goal.value for goal in largest_goals(largest)] == pytest.approx([30, 10])
    assert [goal.value for goal in largest_goals({})] == [None, None]


def test_a_goal_says_what_is_missing() -> None:
    assert str(Goal("capture", "at most 1", None)) == "capture: not measured (aim: at most 1)"
    assert str(Goal("capture", "at most 1", 0.25)) == "capture: 0.250 (aim: at most 1)"
