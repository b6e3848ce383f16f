"""The time limit of a run, and what it takes parts to last."""

from __future__ import annotations

import math

import pytest

from lavakv.bench.floor import Floor
from lavakv.bench.generation.limit import COMPILE_SECONDS, Estimates, TimeLimit
from lavakv.bench.settings import BenchSettings

FLOOR = Floor(4.0, 0.02, 0.005)


def test_what_ends_before_the_limit_fits() -> None:
    now = [10.0]
    limit = TimeLimit(60, clock=lambda: now[0])
    now[0] = 40
    assert limit.left == 30
    assert limit.reason_to_skip(30) is None
    assert limit.reason_to_skip(31) == "takes about 31 s, 30 s left"
    now[0] = 99
    assert limit.reason_to_skip(0.5) == "takes about 0 s, 0 s left"


def test_without_a_limit_everything_fits() -> None:
    assert TimeLimit(None).left == math.inf
    assert TimeLimit(None).reason_to_skip(1e9) is None


def test_estimates_come_from_floors_then_from_what_was_measured() -> None:
    estimates = Estimates()
    at_first = estimates.prefill(FLOOR.prefill_seconds)
    assert at_first > FLOOR.prefill_seconds
    estimates.note_prefill(2.0, 12.0)  # six times its floor
    assert estimates.prefill(8.0) == pytest.approx(48, abs=2)
    estimates.note_prefill(2.0, 0.1)  # faster than its floor: a floor is no upper bound of the machine
    assert estimates.prefill(8.0) >= 8


def test_compiling_counts_as_long_as_it_took_last() -> None:
    estimates = Estimates()
    assert estimates.compilation("full_static") == COMPILE_SECONDS
    estimates.note_compilation("lavakv_compiled", 20)
    assert estimates.compilation("lavakv_compiled") == 20
    assert estimates.compilation("full_static") == COMPILE_SECONDS, "another model to compile"


def test_small_models_wait_for_the_host_and_large_ones_for_the_memory() -> None:
    estimates, small = Estimates(), Floor(4.0, 1e-6, 1e-6)
    assert estimates.decode(small, 100) >= 3
    assert estimates.decode(FLOOR, 100) >= 100 * FLOOR.decode_full_seconds


def test_plain_forwards_take_longer_with_more_rounds() -> None:
    estimates = Estimates()
    few, many = (estimates.trial(FLOOR, BenchSettings(prefill_rounds=rounds)) for rounds in (0, 2))
    assert many - few == pytest.approx(4 * estimates.prefill(FLOOR.prefill_seconds))
    assert estimates.trial(FLOOR, BenchSettings(masked=False)) < estimates.trial(FLOOR, BenchSettings())
