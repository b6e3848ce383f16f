"""lavakv's own score: what leaving one entry out would change in the residual stream, now and for unseen queries.

Derivation and measurements: `docs/method.md`, "Beyond LAVa".
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lavakv.scoring.window import ScoringWindow

FLATTENING = 4  # attention to the power of 1/4: how a row that is less sure of itself would look
DRIFT_GAIN = 2.0  # queries to come have moved on further than the window's halves are apart
SURPRISE_SHARE = 0.003  # of a row's energy on what no other row looks at, what is expected on entries nobody looked at
LEAST_NORM = 2.0**-63  # of a stream that is not zero: float32 holds its square
_LEAST_REST = 2.0**-10


class _Head(NamedTuple):
    """A KV head: its query heads' attention `[G, w, N]`, its values `[N, value_dim]`, `W_O` `[G, dim, hidden]`."""

    attention: Tensor
    values: Tensor
    weight: Tensor


def residual_score(window: ScoringWindow) -> Tensor:
    """Expected change of the residual stream when an entry alone is left out, relative to its norm; float32 `[H, n]`.

    Comparable across the heads of all layers. Needs the output projection and the norms of the residual stream, one of
    which at least is not zero: all is NaN otherwise.
    """
    assert window.output_weight is not None
    assert window.residual_norms is not None
    values = torch.cat(list(window.values), dim=1).float()
    weights = _row_weights(window.residual_norms)
    heads = zip(window.attention[..., : window.num_tokens], values, window.output_weight.float(), strict=True)
    energies = [_energy(_Head(*head), window.num_evictable, weights) for head in heads]  # one by one: w rows of n each
    return torch.stack(energies).sqrt()


def _row_weights(residual_norms: Tensor) -> Tensor:
    """Weights of the window's rows `[w]`: later ones count more, as they are closer to what follows.

    A row whose stream is zero has no relative change and is left out. NaN where all are, for the caller to refuse.
    """
    there = residual_norms >= LEAST_NORM
    ramp = there * torch.arange(1, len(residual_norms) + 1, device=residual_norms.device, dtype=torch.float32)
    return ramp / ramp.sum() / torch.where(there, residual_norms, 1.0).square()


def _energy(head: _Head, num_evictable: int, weights: Tensor) -> Tensor:
    """Squared change summed over query heads, averaged over rows by weight, `[n]`."""
    seen = head.attention[..., :num_evictable]
    distances = _squared_distances(head, num_evictable)
    expected = _expected(head.attention, num_evictable)
    change = (expected / (1 - expected).clamp(min=_LEAST_REST)).square_().mul_(distances)
    known = torch.einsum("gwn,w->n", change, weights)
    unseen = torch.einsum("gwn,w,g->n", distances, weights, _surprise(seen))
    return known + SURPRISE_SHARE / head.attention.shape[-1] * unseen


def _squared_distances(head: _Head, num_evictable: int) -> Tensor:
    """`||(v_i - y_j) W_O||^2` for every row's output and evictable value, `[G, w, n]`; by the Gram matrix of `W_O`."""
    gram = head.weight @ head.weight.transpose(1, 2)
    values, outputs = head.values[:num_evictable], head.attention @ head.values
    projected = outputs @ gram
    squares = (values @ gram).mul_(values).sum(dim=-1)
    crossed = projected @ values.T
    own = (projected * outputs).sum(dim=-1)
    return crossed.mul_(-2).add_(squares[:, None]).add_(own[..., None]).clamp_(min=0)


def _expected(attention: Tensor, num_evictable: int) -> Tensor:
    """Attention that queries to come will pay: the window's, flattened as far as it drifts, `[G, w, n]`."""
    flat = attention.pow(1 / FLATTENING)
    whole = flat.sum(dim=-1, keepdim=True).clamp(min=torch.finfo(flat.dtype).tiny)  # a sink may take everything
    flat = flat[..., :num_evictable] * (attention.sum(dim=-1, keepdim=True) / whole)
    seen = attention[..., :num_evictable]
    return torch.lerp(seen, flat, _drift(seen)[:, None, None])


def _drift(seen: Tensor) -> Tensor:
    """How far attention moved from the window's first half to its second, doubled, at most 1, `[G]`."""
    half = seen.shape[1] // 2
    if half == 0:
        return seen.new_ones(seen.shape[0])
    moved = (seen[:, :half].mean(dim=1) - seen[:, half:].mean(dim=1)).abs().sum(dim=-1) / 2
    return (DRIFT_GAIN * moved).clamp(max=1)


def _surprise(seen: Tensor) -> Tensor:
    """Mean over rows of the squared attention beyond what the other rows pay to the same entry, `[G]`."""
    rows = seen.shape[1]
    others = (seen.sum(dim=1, keepdim=True) - seen) / max(rows - 1, 1)
    return (seen - others).clamp_(min=0).square_().sum(dim=-1).mean(dim=-1)
