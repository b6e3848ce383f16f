"""How far a float32 score may be from its loop-written twin: the attention's own evidence, carried through by hand."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from lavakv.scoring.naive.tiers import protected_mass_naive
from lavakv.scoring.naive.window import attention_row_naive
from lavakv.scoring.window import ScoringWindow
from tests.scoring.cases import alone, entries, largest_difference, naive, plain_attention

EPSILON = torch.finfo(torch.float32).eps


class Attention(NamedTuple):
    """A window's exact attention and the error any float32 softmax of it may have.

    Attributes:
        exact: float64 `[H, G, w, N]`.
        error: of each entry.
        terms: numbers that one sum over rows, group, heads or positions adds up at most; each rounds once.
    """

    exact: Tensor
    error: float
    terms: int

    @property
    def mean_error(self) -> float:
        """Of a mean, or any weighted sum whose weights sum to one, of such entries."""
        return self.error + self.terms * EPSILON * self.largest

    @property
    def largest(self) -> float:
        """The largest exact entry."""
        return float(self.exact.max())


def attention(window: ScoringWindow) -> Attention:
    """Exact attention by loops; the error twice what PyTorch's own float32 softmax shows, and 8 ulp of the largest.

    The 8 ulp are those of the tests of the window: sums and roundings that are not PyTorch's softmax.
    """
    heads, group, rows, _ = window.queries.shape
    exact = exact_attention(window)
    evidence = max(largest_difference(plain, exact) for plain in plain_attention(window))
    assert evidence < 1e-4, "the evidence itself is wrong"
    return Attention(exact, 2 * evidence + 8 * EPSILON * float(exact.max()), heads * group * rows + window.num_tokens)


def exact_attention(window: ScoringWindow) -> Tensor:
    """By loops, each head alone, float64 `[H, G, w, N]`; zero in empty places."""
    heads, group, rows, _ = window.queries.shape
    exact = torch.zeros(heads, group, rows, window.num_tokens, dtype=torch.float64)
    for head in range(heads):
        one = alone(window, head)
        shares = [[attention_row_naive(naive(one), q, row) for row in range(rows)] for q in range(group)]
        exact[head][..., entries(window, head)] = torch.tensor(shares, dtype=torch.float64)
    return exact


def variance_error(window: ScoringWindow, known: Attention) -> float:
    """Of the unbiased variance over the rows: a difference moves by 2 errors, its square by that times its size."""
    rows = window.queries.shape[2]
    if rows == 1:
        return 0.0
    size, moved = known.largest, 2 * known.mean_error
    return rows / (rows - 1) * (2 * size * moved + moved**2 + (rows + 3) * EPSILON * size**2)


def entropy_error(known: Attention, num_evictable: int) -> float:
    """Of the sum of `-a ln a`: where `a` moves by `d`, a term moves by `d (1 - ln d)` at most, if `d < 1 / e`."""
    terms = math.prod(known.exact.shape[:3]) * num_evictable
    return terms * known.error * (1 - math.log(known.error))


def projected_error(window: ScoringWindow) -> float:
    """Of the group mean of `||V W_O||_1`: each product and sum rounds once, relative to the sum of magnitudes."""
    assert window.output_weight is not None
    values = torch.cat(list(window.values), dim=1)[:, : window.num_evictable].double().abs()
    magnitudes = torch.einsum("hnd,hgdo->hgn", values, window.output_weight.double().abs())
    group, value_dim, hidden = window.output_weight.shape[1:]
    return (value_dim + hidden + group + 2) * EPSILON * largest(magnitudes)


def largest(tensor: Tensor) -> float:
    """Largest magnitude, 0 where there is nothing."""
    return float(tensor.abs().max()) if tensor.numel() else 0.0


def expected(twin: list[list[float]], window: ScoringWindow) -> Tensor:
    """A twin's scores as float64 `[H, n]`."""
    return torch.tensor(twin, dtype=torch.float64).view(window.queries.shape[0], window.num_evictable)


def assert_near(fast: Tensor, exact: Tensor, bound: float) -> None:
    """Float32, the same shape, and no entry further off than the bound."""
    assert fast.dtype == torch.float32
    assert fast.shape == exact.shape
    assert largest_difference(fast, exact) <= bound


def assert_best_protected(protected: Tensor, exact: Tensor, kept: int, error: float) -> None:
    """So many a head, and none left out that is better by more than the error."""
    assert protected.dtype == torch.bool
    assert protected.sum(dim=1).tolist() == [kept] * len(exact)
    for marks, scores in zip(protected, exact, strict=True):
        worst = float(scores[marks].min()) if kept else math.inf
        assert largest(scores[~marks].clamp(min=worst) - worst if kept else scores[:0]) <= error


def assert_protected(protected: Tensor, window: ScoringWindow, known: Attention) -> None:
    """The most attended entries up to the mass that is protected; which, only up to the error of the sums."""
    assert window.tokens_per_head is not None
    limit = min(window.tokens_per_head - window.queries.shape[2], window.num_evictable)
    error = (window.num_tokens + 1) * known.mean_error + known.terms * EPSILON
    for marks, (attended, room) in zip(protected, protected_mass_naive(naive(window)), strict=True):
        kept = int(marks.sum())
        scores = torch.tensor(attended, dtype=torch.float64)[None]
        assert_best_protected(marks[None], scores, kept, 2 * known.mean_error)
        before = [math.fsum(sorted(attended, reverse=True)[:count]) for count in range(window.num_evictable)]
        assert sum(total < room - error for total in before[:limit]) <= kept
        assert kept <= sum(total < room + error for total in before[:limit])
