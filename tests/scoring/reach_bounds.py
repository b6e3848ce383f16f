"""How far a float32 `reach` may be from its loops, and a window longer than the rows that it asks."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lavakv.scoring.naive.reach import largest_attention_naive, reach_score_naive
from lavakv.scoring.naive.rotation import unrotated_naive
from lavakv.scoring.prompt import PromptRows, RowTotals
from lavakv.scoring.rotation import Rotation
from lavakv.scoring.window import ScoringWindow
from tests.scoring.bounds import EPSILON
from tests.scoring.cases import naive


def long_window(layer: int, totals: RowTotals | None, rare: slice) -> ScoringWindow:
    """300 tokens whose keys are alike before the rotation but for those of some rows."""
    generator = torch.Generator().manual_seed(layer)
    angles = torch.arange(300)[:, None] * torch.tensor([1.0, 0.1, 1.0, 0.1])
    rotation = Rotation(angles.cos(), angles.sin(), torch.tensor([1.0, 0.1]))
    plain, rows, values = (torch.randn(2, 300, 4, generator=generator) for _ in range(3))
    plain[:, rare] += 20
    return ScoringWindow(
        rows[:, None, 292:], [rotation.turn(plain)], [values], 0.5, layer=layer, residual_norms=torch.ones(8),
        output_weight=torch.randn(2, 1, 4, 5, generator=generator), rotation=rotation,
        prompt=PromptRows(rows[:, None], totals=totals),
    )  # fmt: skip


def _largest_logit(window: ScoringWindow) -> float:
    """Bound on a query-key product times the scaling, before any cap: a rotation keeps lengths but for its factor."""
    assert window.prompt is not None
    longest = window.prompt.queries.double().norm(dim=-1).max() * window.keys[0].double().norm(dim=-1).max()
    return float(longest) * window.scaling


def relative_error(window: ScoringWindow) -> float:
    """Of an attention weight: its logit's and its denominator's error, as `exp` carries them on."""
    dims = window.queries.shape[-1]
    logit_error = (dims + 24) * EPSILON * _largest_logit(window)  # a turn back, a turn, a product, scaling, cap
    return math.expm1(2 * logit_error) + (window.num_tokens + 16) * EPSILON * (1 + _largest_logit(window))


def score_bounds(window: ScoringWindow) -> tuple[Tensor, Tensor]:
    """Least and most that a float32 `reach` may be, float64 `[H, n]`."""
    exact = torch.tensor(reach_score_naive(naive(window)), dtype=torch.float64).view(len(window.queries), -1)
    largest = torch.tensor(largest_attention_naive(naive(window)), dtype=torch.float64).view(exact.shape)
    assert window.tokens_per_head is not None
    each = largest.sum(dim=1, keepdim=True) / (16 * window.tokens_per_head)
    attended = [torch.maximum(largest, each * own.pow(1.5)) for own in _distinctness_bounds(window)]
    least, most = length_bounds(window)
    return attended[0] * least, attended[1] * most


def length_bounds(window: ScoringWindow) -> tuple[Tensor, Tensor]:
    """Least and most that the second factor, relative to the stream, may be, with the error of an attention weight."""
    assert window.residual_norms is not None
    scale = window.residual_norms.double().square().mean().sqrt()
    relative = relative_error(window) + (window.num_evictable + len(window.residual_norms) + 14) * EPSILON
    least, most = _lengths(window)
    return least / scale * (1 - relative), most / scale * (1 + relative)


def _distinctness_bounds(window: ScoringWindow) -> tuple[Tensor, Tensor]:
    """Least and most that a float32 `distinctness` may be, float64 `[H, n]`."""
    assert window.rotation is not None
    plain = torch.tensor([_plain_keys(window, head) for head in range(len(window.queries))], dtype=torch.float64)
    factor = (window.rotation.cos.double().square() + window.rotation.sin.double().square()).sqrt()
    size = (window.keys[0].double().norm(dim=2, keepdim=True) / factor[:, :1]).expand_as(plain)  # of a turned pair
    mean, most = plain.mean(dim=1, keepdim=True), size.mean(dim=1, keepdim=True)
    squares, terms = (plain - mean).square().sum(dim=2), (size + most).square().sum(dim=2)
    error = (2 * plain.shape[1] + plain.shape[2] + 20) * EPSILON * terms
    n = window.num_evictable
    bounds = (squares - error).clamp(min=0)[:, :n], (squares + error)[:, :n]
    rounding = 1 + (n + 4) * EPSILON
    lowest, highest = (bound.mean(dim=1, keepdim=True) for bound in bounds)
    if n and not bool((lowest > 0).all()):  # all keys may be equal
        return torch.zeros_like(squares[:, :n]), torch.full_like(squares[:, :n], float("inf"))
    least, most = bounds[0] / highest / rounding, bounds[1] / lowest * rounding
    return (least * 1024).round() / 1024, (most * 1024).round() / 1024


def _plain_keys(window: ScoringWindow, head: int) -> list[list[float]]:
    """Keys of a head before their rotation."""
    assert window.rotation is not None
    cos, sin = window.rotation.cos.tolist(), window.rotation.sin.tolist()
    return [unrotated_naive(*parts) for parts in zip(window.keys[0][head].tolist(), cos, sin, strict=True)]


def _lengths(window: ScoringWindow) -> tuple[Tensor, Tensor]:
    """Least and most that the float32 length of a centred value behind the projection may be, float64 `[H, n]`."""
    assert window.output_weight is not None
    every, weight = window.values[0].double()[:, None], window.output_weight.double()
    mean, most = every.mean(dim=2, keepdim=True), every.abs().mean(dim=2, keepdim=True)
    values = every[:, :, : window.num_evictable]
    squares = ((values - mean) @ weight).square().sum(dim=-1)
    terms = ((values.abs() + most) @ weight.abs()).square().sum(dim=-1)
    dims = weight.shape[2] * 2 + weight.shape[3] + weight.shape[1]
    error = (2 * every.shape[2] + dims + 14) * EPSILON * terms  # the mean's sum, twice in a square, and the product's
    return (squares - error).clamp(min=0).mean(dim=1).sqrt(), (squares + error).mean(dim=1).sqrt()
