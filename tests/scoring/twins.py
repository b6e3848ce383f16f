"""Scores by loops, each with how far a float32 score may be from them: `[H, n]` float64 and a bound."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from lavakv.scoring.cake import VARIANCE_WEIGHT
from lavakv.scoring.naive.family import (
    cake_score_naive,
    eviction_loss_naive,
    group_mean_naive,
    lava_score_naive,
    mean_attention_naive,
    snapkv_score_naive,
    variance_naive,
    vatp_score_naive,
)
from lavakv.scoring.naive.neighbours import curdkv_score_naive, lag_relative_spread_naive, relative_naive
from lavakv.scoring.naive.residual import residual_max_score_naive
from lavakv.scoring.naive.rkv import cosines_naive, importance_naive, redundancy_naive, rkv_score_naive
from lavakv.scoring.naive.tiers import (
    criticalkv_score_naive,
    defensive_attention_naive,
    defensivekv_score_naive,
    keydiff_score_naive,
    knorm_score_naive,
    projected_norms_naive,
)
from lavakv.scoring.naive.window import value_norms_naive
from lavakv.scoring.window import ScoringWindow
from tests.scoring.bounds import EPSILON, Attention, expected, largest, projected_error, variance_error
from tests.scoring.cases import candidate_logits, naive

Twin = Callable[[ScoringWindow, Attention], tuple[Tensor, float]]


def snapkv(window: ScoringWindow, known: Attention) -> tuple[Tensor, float]:
    return expected(snapkv_score_naive(naive(window)), window), known.mean_error


def window_received(window: ScoringWindow, known: Attention) -> tuple[Tensor, float]:
    """`h2o` where only the window's rows are at hand."""
    rows = window.queries.shape[2]
    means = group_mean_naive(naive(window), mean_attention_naive(naive(window)))
    return rows * expected(means, window), rows * known.mean_error


def lava(window: ScoringWindow, known: Attention) -> tuple[Tensor, float]:
    return _weighted_by_norm(lava_score_naive(naive(window)), window, known)


def loss(window: ScoringWindow, known: Attention) -> tuple[Tensor, float]:
    return _weighted_by_norm(eviction_loss_naive(naive(window)), window, known)


def vatp(window: ScoringWindow, known: Attention) -> tuple[Tensor, float]:
    return _weighted_by_norm(vatp_score_naive(naive(window)), window, known)


def cake(window: ScoringWindow, known: Attention) -> tuple[Tensor, float]:
    exact = expected(cake_score_naive(naive(window)), window)
    bound = known.mean_error + VARIANCE_WEIGHT * variance_error(window, known)
    mixed = known.largest + VARIANCE_WEIGHT * max(max(row, default=0) for row in variance_naive(naive(window)))
    # Sum and product of the mixture, five terms of pooling, the group's mean.
    return exact, bound + (8 + window.queries.shape[1]) * EPSILON * mixed


def criticalkv(window: ScoringWindow, known: Attention) -> tuple[Tensor, float]:
    exact = expected(criticalkv_score_naive(naive(window))[0], window)
    norms, error = expected(projected_norms_naive(naive(window)), window), projected_error(window)
    size = known.largest + 1e-4
    bound = (known.mean_error + EPSILON * size) * (largest(norms) + error) + size * error + EPSILON * largest(exact)
    return exact, bound


def defensive_attention(window: ScoringWindow, known: Attention) -> tuple[Tensor, float]:
    """Attention pooled and brought back to its sum: at most fivefold, and by the two sums' errors."""
    bound = (5 + 6 * window.num_evictable) * known.mean_error + (known.terms + 12) * EPSILON
    return expected(defensive_attention_naive(naive(window)), window), bound


def defensivekv(window: ScoringWindow, known: Attention) -> tuple[Tensor, float]:
    attended, attended_error = defensive_attention(window, known)
    exact, count = expected(defensivekv_score_naive(naive(window)), window), window.num_evictable
    norms, error = expected(projected_norms_naive(naive(window)), window), projected_error(window)
    totals = norms.sum(dim=1)
    least = float(totals[totals > 0].min()) if bool((totals > 0).any()) else 1.0
    # A share moves with its own norm and with the sum of all, by the error of each against that sum.
    share_error = (count + 1) * error / least + (count + 3) * EPSILON
    bound = attended_error * (1 + share_error) + largest(attended) * share_error
    return exact, bound + EPSILON * largest(exact)


def knorm(window: ScoringWindow, known: Attention) -> tuple[Tensor, float]:
    exact = expected(knorm_score_naive(naive(window)), window)
    terms = window.keys[0].shape[-1] + 2  # squares and their sum, halved by the root; the root itself
    return exact, terms * EPSILON * largest(exact)


def keydiff(window: ScoringWindow, known: Attention) -> tuple[Tensor, float]:
    """The anchor is a mean of unit vectors; where they cancel, its direction is as uncertain as its length is short."""
    exact, keys = expected(keydiff_score_naive(naive(window)), window), window.keys[0].double()
    anchor = torch.nn.functional.normalize(keys, dim=-1).mean(dim=1).norm(dim=-1)
    size, tokens = keys.shape[-1], keys.shape[1]
    if not bool((anchor > 0).any()):
        return exact, 0.0
    shortest = float((1 + 1 / anchor[anchor > 0]).amax())
    return exact, (3 * size + tokens + 8) * math.sqrt(size) * EPSILON * shortest


def num_first(window: ScoringWindow, positions: int) -> int:
    """Candidates at the sequence's first positions; the same in all heads, or of the only one."""
    return int((window.candidate_positions[0] < positions).sum())


def lag_relative_spread(window: ScoringWindow, positions: int, lag_size: int) -> tuple[Tensor, float]:
    """Of one head, `[partitions, lag_size]`: how far a deviation may be off is how far its softmax may, twice over."""
    first, twin = num_first(window, positions), naive(window)
    exact = torch.tensor(lag_relative_spread_naive(twin, first, lag_size)[0], dtype=torch.float64)
    bound = 0.0
    for vectors in (twin.keys[0][first:], twin.values[0][first:]):
        numbers = [
            abs(x)
            for number, vector in enumerate(vectors[: len(exact) * lag_size])
            for start in [(number // lag_size + 1) * lag_size]
            for x in relative_naive(vector, list(zip(*vectors[start : start + lag_size], strict=True)))
        ]
        # Two differences and a quotient, then the mean, squares, their sum, and the root of it.
        deviation = (3 + 2 * (len(vectors[0]) + 4)) * EPSILON * max(numbers, default=0.0)
        bound += 2 * deviation + (lag_size + 4) * EPSILON
    return exact.view(-1, lag_size), bound


def curdkv(window: ScoringWindow, known: Attention) -> tuple[Tensor, float]:
    """Sums of what is not negative: each rounding counts once, relative to the result."""
    exact = expected(curdkv_score_naive(naive(window), num_first(window, 4)), window)
    dims = window.keys[0].shape[-1] + window.values[0].shape[-1]
    product = 2 * (dims + 19) + 1  # squares and their sum, in an entry and in its block; the block's sum; the quotient
    return exact, (2 * product + window.num_tokens + 1) * EPSILON * largest(exact)


def importance_among_candidates(window: ScoringWindow, known: Attention) -> tuple[Tensor, float]:
    """Twice the error that PyTorch's own softmax of the same logits shows, and sums and roundings that it does not."""
    exact = expected([importance_naive(naive(window), head) for head in range(len(window.queries))], window)
    logits = candidate_logits(window).amax(dim=1)
    evidence = max(
        largest(shares.nan_to_num(0.0).double().mean(dim=1) - exact)
        for shares in (logits.softmax(-1), logits.log_softmax(-1).exp())
    )
    assert evidence < 1e-4, "the evidence itself is wrong"
    return exact, 2 * evidence + (8 + known.terms) * EPSILON * largest(exact)


def similarity_is_clear(window: ScoringWindow) -> bool:
    """Whether no cosine is so near to the threshold that rounding decides."""
    cosines = [cosines_naive(keys) for keys in naive(window).keys]
    return all(abs(cosine - 0.5) > 1e-5 for rows in cosines for row in rows for cosine in row)


def redundancy(window: ScoringWindow, known: Attention) -> tuple[Tensor, float]:
    """A mean of cosines moves by the roundings of products and sums, a softmax by twice that, relative to itself."""
    exact = expected([redundancy_naive(keys)[: window.num_evictable] for keys in naive(window).keys], window)
    size, tokens = window.keys[0].shape[2], window.num_tokens
    moved = (3 * size + 2 * tokens + 12) * EPSILON
    return exact, (2 * moved + (tokens + 4) * EPSILON) * largest(exact)


def rkv(window: ScoringWindow, known: Attention) -> tuple[Tensor, float]:
    exact = expected(rkv_score_naive(naive(window)), window)
    errors = [part(window, known)[1] for part in (importance_among_candidates, redundancy)]
    return exact, 0.1 * errors[0] + 0.9 * errors[1] + 4 * EPSILON


def _weighted_by_norm(scores: list[list[float]], window: ScoringWindow, known: Attention) -> tuple[Tensor, float]:
    """Attention times a value's norm: a rounding a term of the norm, one for the product, of the largest product."""
    norm = max(max(row) for row in value_norms_naive(naive(window).values))
    rounding = (window.values[0].shape[-1] + 1) * EPSILON * known.largest * norm
    return expected(scores, window), known.mean_error * norm + rounding


def residual_max(window: ScoringWindow, known: Attention) -> tuple[Tensor, float]:
    """The length of a value behind the projection by its Gram matrix, a root, a mean over the group, a quotient."""
    assert window.output_weight is not None
    assert window.residual_norms is not None
    exact = expected(residual_max_score_naive(naive(window)), window)
    attended, error = defensive_attention(window, known)
    values = torch.cat(list(window.values), dim=1).double()[:, None, : window.num_evictable]
    weight, norms = window.output_weight.double(), window.residual_norms.double()
    squares = (values @ weight).square().sum(dim=-1)
    terms = (values.abs() @ weight.abs()).square().sum(dim=-1)
    roundings = weight.shape[2] * 2 + weight.shape[3] + weight.shape[1] + 8
    most = (squares + roundings * EPSILON * terms).mean(dim=1).sqrt()
    scale = norms[norms > 0].square().mean().sqrt()
    bound = (attended + error) * most / scale * (1 + (len(norms) + 8) * EPSILON) - exact
    return exact, float(bound.max()) if bound.numel() else 0.0
