from __future__ import annotations

from dataclasses import replace

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from lavakv.scoring.naive.window import attention_row_naive, mean_attention_naive, value_norms_naive
from lavakv.scoring.window import ScoringWindow
from tests.scoring.cases import chunked, largest_difference, naive, plain_attention_error, windows

EPSILON = torch.finfo(torch.float32).eps


def _exact(window: ScoringWindow) -> torch.Tensor:
    means = torch.tensor(mean_attention_naive(naive(window)), dtype=torch.float64)
    return means.view(*window.queries.shape[:2], window.num_evictable)


@given(windows())
def test_mean_attention_equals_the_loops(window: ScoringWindow) -> None:
    exact = _exact(window)
    assert window.mean_attention.dtype == torch.float32
    assert window.mean_attention.shape == exact.shape
    # 4 ulp of the largest: the mean's sum and quotient, and the last rounding, are not PyTorch's softmax.
    bound = 2 * plain_attention_error(window, exact) + 4 * EPSILON * _largest(exact)
    assert largest_difference(window.mean_attention, exact) <= bound


@given(chunked())
def test_chunks_give_what_one_piece_gives(pair: tuple[ScoringWindow, ScoringWindow]) -> None:
    whole, cut = pair
    exact = _exact(whole)
    assert cut.num_evictable == whole.num_evictable
    # 4 ulp more: the denominators of the chunks are merged, one log-sum-exp more than PyTorch's log-softmax takes.
    bound = 2 * plain_attention_error(whole, exact) + 8 * EPSILON * _largest(exact)
    assert largest_difference(cut.mean_attention, exact) <= bound
    assert torch.equal(cut.value_norms, whole.value_norms)


@given(windows(), st.sampled_from([torch.bfloat16, torch.float16]))
def test_low_precision_inputs_are_widened_before_any_product(window: ScoringWindow, dtype: torch.dtype) -> None:
    low = replace(window, queries=window.queries.to(dtype), keys=[window.keys[0].to(dtype)])
    wide = replace(low, queries=low.queries.float(), keys=[low.keys[0].float()])
    assert torch.equal(low.mean_attention, wide.mean_attention)


@given(windows())
def test_value_norms_equal_the_loops(window: ScoringWindow) -> None:
    exact = torch.tensor(value_norms_naive(naive(window).values), dtype=torch.float64)
    terms = window.values[0].shape[-1]  # a sum of that many terms rounds that many times at most
    assert largest_difference(window.value_norms, exact) <= terms * EPSILON * _largest(exact)


def test_the_naive_row_is_pytorchs_attention() -> None:
    """The truth itself, against an implementation that shares nothing with it."""
    torch.manual_seed(0)
    queries, keys = torch.randn(1, 4, 6, 5, dtype=torch.float64), torch.randn(1, 4, 6, 5, dtype=torch.float64)
    window = ScoringWindow(queries[0][:, None], [keys[0]], [keys[0]], scaling=0.7)
    identity = torch.eye(6, dtype=torch.float64).expand(1, 4, 6, 6)
    expected = functional.scaled_dot_product_attention(queries, keys, identity, is_causal=True, scale=0.7)[0]
    rows = [[attention_row_naive(naive(window), head, row) for row in range(6)] for head in range(4)]
    torch.testing.assert_close(torch.tensor(rows, dtype=torch.float64), expected, rtol=0, atol=1e-14)


def test_a_sink_takes_its_share() -> None:
    window = ScoringWindow(torch.zeros(1, 1, 1, 2), [torch.ones(1, 3, 2)], [torch.ones(1, 3, 2)], 1.0)
    sunk = replace(window, sinks=torch.tensor([[0.0]]))
    assert window.mean_attention.tolist() == [[[torch.tensor(1 / 3).item()] * 2]]
    assert sunk.mean_attention.tolist() == [[[0.25, 0.25]]]


def _largest(tensor: torch.Tensor) -> float:
    return float(tensor.abs().max()) if tensor.numel() else 0.0
