"""How far `caote` and `dropkv` in float32 may be from their loop-written twins: every rounding, carried through."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import avg_pool1d

from lavakv.scoring.dropkv import EPSILON as ADDED
from lavakv.scoring.dropkv import KERNEL_SIZE, ROWS
from lavakv.scoring.window import ScoringWindow
from tests.scoring.bounds import EPSILON, exact_attention
from tests.scoring.residual_bounds import TINY, Known, over_rest, relative_error

SMALLEST = 2.0**-126  # what a product below it loses


def known_caote(window: ScoringWindow, relative: float | None = None) -> Known:
    """Scores `[H, n]`, from the exact attention; its `relative_error` is worked out if not given."""
    attention = _attention(window, relative)
    means = Known(*(part.mean(dim=2, keepdim=True) for part in attention)).rounded(attention.exact.shape[2] + 1)
    total = Known(*(part.sum(dim=-1, keepdim=True) for part in means)).rounded(window.num_tokens)
    shares = _divided(means, total).rounded(1)
    changes = over_rest(shares).times(_distances(window, shares)).rounded(2)
    group = changes.exact.shape[1]
    return Known(*(part.mean(dim=(1, 2)) for part in changes)).rounded(group + 1).first(window.num_evictable)


def known_dropkv(window: ScoringWindow, relative: float | None = None) -> Known:
    """Scores `[H, n]`; arguments as `known_caote`."""
    shares = Known(*(part[:, :, -ROWS:] for part in _attention(window, relative)))
    rest = 1 - shares.exact + ADDED
    least = (1 - shares.most - EPSILON).clamp(min=0) + ADDED * (1 - EPSILON)
    weights = Known(shares.exact / rest, shares.most / least - shares.exact / rest).rounded(2)
    squares = weights.squared().times(_distances(window, shares).squared()).rounded(5)
    squares = Known(squares.exact, squares.error + SMALLEST)
    group, rows = squares.exact.shape[1:3]
    means = Known(*(part.sum(dim=(1, 2)) / group for part in squares)).rounded(group * rows + 1)
    return Known(*map(_pooled, means)).rounded(KERNEL_SIZE + 1).first(window.num_evictable)


def _attention(window: ScoringWindow, relative: float | None) -> Known:
    """`[H, G, w, N]`."""
    exact, relative = exact_attention(window), relative_error(window) if relative is None else relative
    return Known(exact, relative * exact + TINY)


def _divided(number: Known, by: Known) -> Known:
    """Zero by zero is zero."""
    exact = number.exact / by.exact.clamp(min=torch.finfo(torch.float64).tiny)
    return Known(exact, number.most / (by.exact - by.error).clamp(min=TINY) - exact)


def _distances(window: ScoringWindow, shares: Known) -> Known:
    """Length of each value less a row's output, `[H, G, rows, N]`: the error of the output, and that of differences."""
    values = torch.cat(list(window.values), dim=1).double()[:, None, None]
    outputs = (shares.exact[..., None] * values).sum(dim=3, keepdim=True)
    size = (shares.most[..., None] * values.abs()).sum(dim=3, keepdim=True)
    moved = (shares.error[..., None] * values.abs()).sum(dim=3, keepdim=True) + (window.num_tokens + 1) * EPSILON * size
    shift = moved + EPSILON * (values.abs() + size)  # far above what float64 leaves of products that cancel
    return Known((values - outputs).norm(dim=-1), shift.norm(dim=-1)).rounded(values.shape[-1] + 4)


def _pooled(rows: Tensor) -> Tensor:
    return avg_pool1d(rows, KERNEL_SIZE, stride=1, padding=KERNEL_SIZE // 2)
