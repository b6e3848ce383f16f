"""The C kernel behind H2O: as exact as PyTorch, deaf to what rows do not see, and never in the way."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lavakv.native import build
from lavakv.scoring import received
from lavakv.scoring.received import add_causal, kernel

needs_kernel = pytest.mark.skipif(build.compiler() is None, reason="no C compiler here")
EPSILON = torch.finfo(torch.float32).eps


@pytest.fixture
def _fresh() -> Iterator[None]:
    for cached in (build.library, received.kernel):
        cached.cache_clear()
    yield
    for cached in (build.library, received.kernel):
        cached.cache_clear()


def logits_of(group: int, rows: int, first: int, spread: float, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return spread * torch.randn(group, rows, first + rows, generator=generator)


def plainly(logits: Tensor, first: int, share: float) -> Tensor:
    """By PyTorch's operators, in the logits' dtype."""
    hidden = torch.ones(logits.shape[1:], dtype=torch.bool).triu(first + 1)
    return torch.softmax(logits.masked_fill(hidden, float("-inf")), dim=-1).sum(dim=(0, 1)) * share


@needs_kernel
@given(
    st.integers(1, 4), st.integers(1, 70), st.integers(0, 600), st.sampled_from([0.0, 1.0, 8.0, 200.0]),
    st.integers(0, 99),
)  # fmt: skip
def test_sums_are_as_exact_as_pytorch_s(group: int, rows: int, first: int, spread: float, seed: int) -> None:
    logits = logits_of(group, rows, first, spread, seed)
    exact, share = plainly(logits.double(), first, 1 / group), 1 / group
    theirs = (plainly(logits, first, share) - exact).abs().max()
    mine = torch.ones(first + rows)
    assert add_causal(logits.clone(), first, share, mine)
    # What was there before is added to with one rounding; an entry of 0 or 1 alone may have no error at all.
    allowed = 2 * float(theirs) + EPSILON * (1 + float(exact.max()))
    assert float((mine.double() - 1 - exact).abs().max()) <= allowed


@needs_kernel
def test_what_rows_do_not_see_may_be_anything() -> None:
    logits = logits_of(2, 40, 30, 1.0)
    expected, found = torch.zeros(2, 70)
    add_causal(logits.clone(), 30, 1.0, expected)
    hidden = torch.ones(40, 70, dtype=torch.bool).triu(31)
    for number in (float("nan"), float("inf"), 1e30):
        add_causal(logits.masked_fill(hidden, number), 30, 1.0, found.zero_())
        assert found.equal(expected)


@needs_kernel
@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_what_is_seen_and_no_number_is_not_lost(number: float) -> None:
    for position in (0, 5, 31, 60):
        logits = logits_of(1, 40, 30, 1.0)
        logits[0, 35, position] = number
        found = torch.zeros(70)
        add_causal(logits, 30, 1.0, found)
        assert bool(found[:66].isnan().all())
        assert not bool(found[66:].isnan().any())


@needs_kernel
@pytest.mark.usefixtures("_fresh")
def test_a_wrong_build_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(build.SOURCES, tmp_path, dirs_exist_ok=True)
    right = (tmp_path / "received.c").read_text()
    (tmp_path / "received.c").write_text(right.replace("share / exp", "2 * share / exp"))
    monkeypatch.setattr(build, "SOURCES", tmp_path)
    monkeypatch.setattr(received, "folder", lambda: tmp_path)
    assert build.library(tmp_path) is not None
    assert kernel() is None


def test_without_it_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(received, "kernel", lambda: None)
    untouched = torch.zeros(70)
    assert not add_causal(logits_of(1, 40, 30, 1.0), 30, 1.0, untouched)
    assert not bool(untouched.any())


@needs_kernel
@pytest.mark.usefixtures("_fresh")
def test_the_users_defaults_are_not_its_own() -> None:
    logits, found = logits_of(1, 40, 30, 1.0), torch.zeros(70)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            assert add_causal(logits.clone(), 30, 1.0, found)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.isclose(found, plainly(logits, 30, 1.0), atol=1e-5).all()
