"""Intervals: against a loop-written twin, and properties that hold for any scores."""

from __future__ import annotations

import math
import zlib
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lavakv.evaluation.bootstrap import FEW, FEW_IN_TASK, NUM_DRAWS, estimate, resample
from lavakv.report.board import TaskBoard, with_differences

SCORES = arrays(np.float64, st.tuples(st.integers(2, 3), st.integers(1, 8)), elements=st.floats(0, 100, width=32))


def _board(scores: np.ndarray) -> TaskBoard:
    examples = tuple(("task", str(index), "", None, None) for index in range(scores.shape[1]))
    return TaskBoard("task", "Bench", "group", "F1", examples, scores)


def test_every_draw_is_the_mean_of_the_examples_it_drew() -> None:
    rows = np.array([[10.0, 20.0, np.nan, 60.0], [0.0, 0.0, 90.0, 30.0]])
    resampled = resample(rows, "a seed")
    generator = np.random.default_rng(zlib.crc32(b"a seed"))
    for draw in range(NUM_DRAWS):
        times = generator.multinomial(4, [0.25] * 4)
        for row in range(2):
            drawn = [rows[row, i] for i in range(4) for _ in range(times[i]) if not math.isnan(rows[row, i])]
            expected = sum(drawn) / len(drawn) if drawn else math.nan
            assert resampled.draws[draw, row] == pytest.approx(expected, rel=1e-12, nan_ok=True)
    assert resampled.means.tolist() == [30.0, 30.0]
    assert resampled.counts.tolist() == [3, 4]


@given(SCORES)
def test_intervals_lie_inside_the_scores_and_around_something(scores) -> None:
    task = resample(scores, "task")
    for row in range(len(scores)):
        result = estimate([task], row)
        slack = 1e-9 * (1 + scores[row].max())
        assert scores[row].min() - slack <= result.low <= result.high <= scores[row].max() + slack
        assert result.mean == pytest.approx(scores[row].mean())
        assert result.num == scores.shape[1]


@given(SCORES, st.integers(0, 50))
def test_a_constant_lead_has_an_interval_of_no_width(scores, lead) -> None:
    ahead = np.vstack([scores[0] + lead, scores])
    result = estimate([with_differences(_board(ahead), [(0, 1)])], len(ahead))
    assert (result.mean, result.low, result.high) == pytest.approx((lead, lead, lead), abs=1e-9)


@given(SCORES)
def test_an_average_gives_each_task_the_same_weight(scores) -> None:
    longer = np.hstack([scores, scores, np.zeros_like(scores)])
    tasks = [resample(scores, "short"), resample(longer, "long")]
    result = estimate(tasks, 0)
    assert result.mean == pytest.approx((scores[0].mean() + longer[0].mean()) / 2)
    assert result.num == 4 * scores.shape[1]


def test_differences_use_only_what_both_answered() -> None:
    scores = np.array([[100.0, 50.0, np.nan], [40.0, np.nan, 0.0]])
    result = estimate([with_differences(_board(scores), [(0, 1)])], 2)
    assert result.mean == 60.0
    assert result.num == 1


def test_nothing_scored_is_not_zero() -> None:
    result = estimate([resample(np.full((1, 3), np.nan), "task")], 0)
    assert math.isnan(result.mean)
    assert not result.known


def test_a_task_s_interval_does_not_depend_on_what_else_ran() -> None:
    scores = np.array([[0.0, 100.0, 30.0, 70.0]])
    alone = estimate([resample(scores, "task")], 0)
    assert estimate([resample(np.vstack([scores, scores / 2]), "task")], 0) == alone


def _quantiles_of_all_draws(tasks: list[list[float]], low: float, high: float) -> tuple[float, float, float, float]:
    """Share of all equally likely draws whose mean over tasks is below, and at most, each of two numbers."""
    means = [[math.fsum(draw) / len(draw) for draw in product(values, repeat=len(values))] for values in tasks]
    every = np.array([math.fsum(own) / len(own) for own in product(*means)])
    slack = 1e-9
    return tuple(float(np.mean(every < at + slack * side)) for at in (low, high) for side in (-1, 1))


@pytest.mark.parametrize("tasks", [[[1.0, 2.0, 4.0, 8.0, -3.0]], [[0.0, 1.0, 5.0], [2.0, -7.0, 3.0, 0.5]]])
def test_interval_ends_are_quantiles_of_all_draws_there_are(tasks) -> None:
    """Worked out without drawing; 2,000 draws may miss a tail of 2.5 % by four standard errors."""
    found = estimate([resample(np.array([values]), str(index)) for index, values in enumerate(tasks)], 0)
    below_low, to_low, below_high, to_high = _quantiles_of_all_draws(tasks, found.low, found.high)
    error = 4 * math.sqrt(0.025 * 0.975 / NUM_DRAWS)
    assert below_low - error <= 0.025 <= to_low + error
    assert below_high - error <= 0.975 <= to_high + error


@pytest.mark.parametrize(
    ("num_tasks", "prompts", "believed"), [(1, FEW, True), (1, FEW - 1, False), (10, 1, False), (10, FEW_IN_TASK, True)]
)
def test_few_prompts_settle_nothing(num_tasks, prompts, believed) -> None:
    """Ten tasks of one prompt have an interval of no width, however the prompts came out."""
    values = np.full((1, prompts), 3.0)
    found = estimate([resample(values, str(index)) for index in range(num_tasks)], 0)
    assert (found.low, found.high) == pytest.approx((3.0, 3.0))
    assert found.verdict == ("ahead" if believed else "open")
    worse = estimate([resample(-values, str(index)) for index in range(num_tasks)], 0)
    assert worse.verdict == ("behind" if believed else "open")


def test_one_task_of_too_few_prompts_is_enough_to_doubt() -> None:
    tasks = [resample(np.full((1, 50), 3.0), "many"), resample(np.full((1, FEW_IN_TASK - 1), 3.0), "few")]
    assert estimate(tasks, 0).verdict == "open"
    assert estimate(tasks, 0).least == FEW_IN_TASK - 1
