"""How far `residual`'s squared float32 scores may be from their loop-written twin: every rounding, carried through."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lavakv.scoring.naive.residual import MIN_REST, UNSEEN_SHARE
from lavakv.scoring.window import ScoringWindow
from tests.scoring.bounds import EPSILON, exact_attention
from tests.scoring.cases import plain_attention

TINY = 2.0**-100  # attention below it may be rounded to nothing; its fourth root is 2**-25 at most


class Known(NamedTuple):
    """A number that float32 code computes: its exact value, and how far off it may be."""

    exact: Tensor
    error: Tensor

    @property
    def most(self) -> Tensor:
        return self.exact + self.error

    def squared(self) -> Known:
        return Known(self.exact.square(), self.most.square() - self.exact.square())

    def times(self, other: Known) -> Known:
        exact = self.exact * other.exact
        return Known(exact, self.most * other.most - exact)

    def first(self, count: int) -> Known:
        """Of so many positions, the last dimension."""
        return Known(self.exact[..., :count], self.error[..., :count])

    def rounded(self, times: int) -> Known:
        """After so many more roundings, relative to the number or to the sum of the magnitudes in it."""
        return Known(self.exact, self.error + times * EPSILON * self.most)


def known_squares(window: ScoringWindow, relative: float | None = None) -> Known:
    """Squares of the scores, `[H, n]`, from the exact attention; its `relative_error` is worked out if not given."""
    _, group, rows, _ = window.queries.shape
    attention, relative = exact_attention(window), relative_error(window) if relative is None else relative
    seen = attention[..., : window.num_evictable]
    distances = distances_of(window, attention, relative, group * rows + 4).first(window.num_evictable)
    weights = row_weights_of(window)
    change = over_rest(_expected(attention, relative, window.num_evictable)).squared().rounded(4)
    known = change.times(distances).times(weights).rounded(group * rows + 4)
    unseen = distances.times(weights).times(_surprise(seen, relative)).rounded(group * rows + 6)
    share = UNSEEN_SHARE / window.num_tokens
    parts = [(one + share * other).sum(dim=(1, 2)) for one, other in zip(known, unseen, strict=True)]
    return Known(*parts).rounded(8)  # the sum, the root, and what the roots' squares make of it


def row_weights_of(window: ScoringWindow) -> Known:
    """Of the window's rows, `[w, 1]`."""
    assert window.residual_norms is not None
    norms = window.residual_norms.double()
    places = torch.arange(1, len(norms) + 1, dtype=torch.float64) * (norms > 0)
    ramp = places / places.sum() / norms.clamp(min=2.0**-63).square()
    return Known(ramp[:, None], 0 * ramp[:, None]).rounded(6)


def relative_error(window: ScoringWindow) -> float:
    """Of each attention above `TINY`: twice what PyTorch's own shows; 8 ulp of 1 and of the largest logit on top.

    Those are the roundings of denominators that are merged in the log domain, where chunks are.
    """
    exact, keys = exact_attention(window), torch.cat(list(window.keys), dim=1).double()
    logits = torch.einsum("hgwd,hkd->hgwk", window.queries.double().abs(), keys.abs()) * window.scaling
    large = exact > TINY
    ratios = [plain.double()[large] / exact[large] - 1 for plain in plain_attention(window)]
    evidence = max(float(ratio.abs().max()) for ratio in ratios)
    assert evidence < 1e-3, "the evidence itself is wrong"
    return 2 * evidence + 8 * EPSILON * (1 + float(logits.max()))


def distances_of(window: ScoringWindow, attention: Tensor, relative: float, num_sums: int = 0) -> Known:
    """`||(v_i - y_j) W||^2`: by the error of `y`, and by the rounding of any sum of products of such sizes.

    Where more is summed before the three parts of a square meet, `num_sums` more roundings are of their sizes.
    """
    assert window.output_weight is not None
    values, weight = torch.cat(list(window.values), dim=1).double()[:, None, None], window.output_weight.double()
    value_dim, hidden = weight.shape[2:]
    apart = values - (attention[..., None] * values).sum(dim=3)[..., None, :]
    size = (attention[..., None] * values.abs()).sum(dim=3)[..., None, :]
    lost = window.num_tokens * TINY * values.abs().amax(dim=3, keepdim=True)
    moved = (relative + window.num_tokens * EPSILON) * size + lost
    exact = torch.einsum("hgwnd,hgdo->hgwno", apart, weight).square().sum(dim=-1)
    shift = torch.einsum("hgwnd,hgdo->hgwno", moved, weight.abs()).square().sum(dim=-1)
    sizes = values.abs() + size + moved
    terms = torch.einsum("hgwnd,hgdo->hgwno", sizes, weight.abs()).square().sum(dim=-1)
    rounding = (hidden + 2 * value_dim + 8 + num_sums) * EPSILON * terms
    return Known(exact, 2 * (exact * shift).sqrt() + shift + rounding)


def _expected(attention: Tensor, relative: float, num_evictable: int) -> Known:
    """Attention mixed with its fourth roots, whose relative error is a quarter of its own."""
    tokens, rows = attention.shape[-1], attention.shape[2]
    roots = attention.pow(0.25)
    flat = roots / roots.sum(dim=-1, keepdim=True) * attention.sum(dim=-1, keepdim=True)
    error = (1.5 * relative + (2 * tokens + 8) * EPSILON) * (flat + attention) + (tokens + 1) * TINY**0.25
    seen, half = attention[..., :num_evictable], rows // 2
    share, moved = torch.ones(*attention.shape[:2], 1, 1, dtype=torch.float64), 0.0
    if half:
        halves = seen[:, :, :half].mean(dim=2, keepdim=True), seen[:, :, half:].mean(dim=2, keepdim=True)
        share = (halves[0] - halves[1]).abs().sum(dim=-1, keepdim=True).clamp(max=1)
        moved = 2 * (relative + (rows + tokens + 4) * EPSILON)
    mixed = seen + share * (flat - attention)[..., :num_evictable]
    return Known(mixed, (error + moved * (flat - attention).abs())[..., :num_evictable])


def over_rest(expected: Known) -> Known:
    """`E / max(1 - E, 2^-10)`."""
    rest = (1 - expected.exact).clamp(min=MIN_REST)
    least = (1 - expected.most - EPSILON).clamp(min=MIN_REST)
    exact = expected.exact / rest
    return Known(exact, expected.most / least - exact)


def _surprise(seen: Tensor, relative: float) -> Known:
    """The mean square beyond the other rows, `[H, G, 1, 1]`."""
    rows, tokens = seen.shape[2:]
    sums = seen.sum(dim=2, keepdim=True)
    others = (sums - seen) / max(rows - 1, 1)
    error = (relative + (rows + 6) * EPSILON) * (seen + sums) + 2 * rows * TINY
    squares = Known((seen - others).clamp(min=0), error).squared()
    exact, error = (part.sum(dim=-1, keepdim=True).mean(dim=2, keepdim=True) for part in squares)
    return Known(exact, error).rounded(tokens + rows + 4)
