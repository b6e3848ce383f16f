from __future__ import annotations

import math

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from lavakv.scoring.entropy import head_statistics, normalized_entropy, sum_of_halves
from lavakv.scoring.naive.family import normalized_entropy_naive

EPSILON = torch.finfo(torch.float64).eps
number = st.one_of(st.just(0.0), st.floats(2.0**-99, 2.0**99, width=32), st.sampled_from([1.0, 0.5]))


@st.composite
def layers(draw: st.DrawFn) -> torch.Tensor:
    heads, evictable = draw(st.integers(1, 5)), draw(st.integers(0, 9))
    rows = st.lists(st.lists(number, min_size=evictable, max_size=evictable), min_size=heads, max_size=heads)
    return torch.tensor(draw(rows), dtype=torch.float32).view(heads, evictable)


@given(layers())
@example(torch.zeros(3, 4))
@example(torch.zeros(3, 0))
@example(torch.full((2, 3), 1e-38))
@example(torch.full((2, 3), 3e38))
def test_entropy_equals_the_loops(scores: torch.Tensor) -> None:
    entropy = normalized_entropy(head_statistics(scores).sum(dim=0), scores.numel())
    assert entropy.dtype == torch.float64
    exact = normalized_entropy_naive(scores.tolist())
    # `ln sum - (sum s ln s) / sum` subtracts two numbers of size |ln s|; each sum rounds once a term.
    size = max([abs(math.log(score)) for score in scores.flatten().tolist() if score > 0], default=0.0) + 4
    terms = scores.numel() + 4
    assert abs(float(entropy) - exact) <= terms * size * EPSILON / math.log(max(scores.numel(), 2))
    assert 0.0 <= float(entropy) <= 1.0


@given(layers(), st.data())
def test_statistics_of_parts_of_the_heads_add_up(scores: torch.Tensor, data: st.DataObject) -> None:
    """Each head's numbers do not depend on who else is there, so ranks can share a layer out."""
    cut = data.draw(st.integers(0, scores.shape[0]))
    parts = torch.cat([head_statistics(scores[:cut]), head_statistics(scores[cut:])])
    whole = head_statistics(scores)
    assert whole.dtype == torch.float64
    assert torch.equal(parts, whole)
    assert torch.equal(torch.cat([head_statistics(row[None]) for row in scores]), whole)


def test_statistics_do_not_depend_on_threads() -> None:
    """Long rows of few heads, which PyTorch's own sum would cut among threads."""
    torch.manual_seed(0)
    scores, threads = torch.rand(3, 100_003), torch.get_num_threads()
    found = []
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            found += [head_statistics(scores), torch.cat([head_statistics(row[None]) for row in scores])]
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(one, found[0]) for one in found)


@given(st.lists(st.integers(-(2**40), 2**40), max_size=40), st.integers(1, 3))
def test_summing_halves_adds_every_term_once(terms: list[int], rows: int) -> None:
    numbers = torch.tensor([terms] * rows, dtype=torch.float64)
    assert sum_of_halves(numbers).tolist() == [sum(terms)] * rows


@given(layers())
def test_a_device_s_statistics_are_the_cpu_s_but_for_rounding(scores: torch.Tensor) -> None:
    exact = scores.double()
    terms = torch.stack([exact, torch.xlogy(exact, exact)], dim=1)
    torch.testing.assert_close(sum_of_halves(terms), head_statistics(scores), rtol=1e-14, atol=0)


def test_statistics_do_not_depend_on_strides() -> None:
    torch.manual_seed(0)
    scores = torch.rand(3, 40)
    assert torch.equal(head_statistics(scores.t().contiguous().t()), head_statistics(scores))
    assert torch.equal(head_statistics(scores.repeat_interleave(2, dim=1)[:, ::2]), head_statistics(scores))


@pytest.mark.parametrize(("scores", "expected"), [([[1.0, 1.0], [1.0, 1.0]], 1.0), ([[0.0, 3.0]], 0.0), ([[2.0]], 0.0)])
def test_the_ends_of_the_scale(scores: list[list[float]], expected: float) -> None:
    scores = torch.tensor(scores)
    assert float(normalized_entropy(head_statistics(scores).sum(dim=0), scores.numel())) == pytest.approx(expected)
