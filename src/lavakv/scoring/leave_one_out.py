"""Change of the residual stream when one entry is left out, `a / (1 - a) * (y - v) W_O`, relative to its norm.

Derivation: `docs/method.md`, "Beyond LAVa". `caote` and `dropkv` use the change without projection and norm.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lavakv.scoring.blocks import joined
from lavakv.scoring.means import mean_by_head
from lavakv.scoring.window import ScoringWindow

MIN_NORM = 2.0**-63  # of a stream that is not zero: float32 holds its square
_MIN_REST = 2.0**-10


def stream_norms(window: ScoringWindow) -> Tensor:
    """What a change behind the output projection is relative to at each of the window's tokens, float32 `[w]`.

    The norms of the residual stream; where a norm stands before it, times the root mean square of the output.
    """
    assert window.residual_norms is not None
    scale = window.output_scale
    return window.residual_norms if scale is None else scale.norms(window.residual_norms)


def row_weights(window: ScoringWindow) -> Tensor:
    """Weights of the window's rows `[w]`: later ones count more, as they are closer to what follows.

    A row whose stream is zero has no relative change and is left out. NaN where all are, for the caller to refuse.
    """
    residual_norms = stream_norms(window)
    there = residual_norms >= MIN_NORM
    ramp = there * torch.arange(1, len(residual_norms) + 1, device=residual_norms.device, dtype=torch.float32)
    return ramp / ramp.sum() / torch.where(there, residual_norms, 1.0).square()


def stream_norm(window: ScoringWindow) -> Tensor:
    """Root mean square of `stream_norms`, zeros left out; NaN where all are."""
    norms = stream_norms(window)
    there = norms >= MIN_NORM
    return (torch.where(there, norms, 0.0).square().sum() / there.sum()).sqrt()


def grams(window: ScoringWindow) -> Tensor:
    """Gram matrices of what brings each query head's values to the stream, float32 `[H, G, value_dim, value_dim]`.

    That is its part of `W_O`, and the gain of the norm behind it where there is one; once a window.
    """
    assert window.output_weight is not None
    weight, scale = window.output_weight, window.output_scale
    if scale is None:
        return plain_grams(window)
    return window.remember("stream_grams", lambda: _grams(scale.weight(weight)))


def plain_grams(window: ScoringWindow) -> Tensor:
    """Gram matrices of the query heads' parts of `W_O`, float32 `[H, G, value_dim, value_dim]`; once a window."""
    assert window.output_weight is not None
    weight = window.output_weight
    return window.remember("grams", lambda: _grams(weight))


def _grams(weights: Tensor) -> Tensor:
    return torch.stack([weight @ weight.transpose(1, 2) for weight in map(Tensor.float, weights)])


def squared_lengths(window: ScoringWindow) -> Tensor:
    """`||V_h[i] W_O,q||^2` of every position behind the gain, see `grams`, float32 `[H, G, N]`; once a window."""
    if window.output_scale is None:
        return plain_squared_lengths(window)
    return window.remember("stream_squared_lengths", lambda: _squared_lengths(window, grams(window)))


def plain_squared_lengths(window: ScoringWindow) -> Tensor:
    """`||V_h[i] W_O,q||^2` of every position, float32 `[H, G, N]`; once a window."""
    return window.remember("squared_lengths", lambda: _squared_lengths(window, plain_grams(window)))


def _squared_lengths(window: ScoringWindow, known: Tensor) -> Tensor:
    return joined(
        torch.stack([_squared(values.float(), gram) for values, gram in zip(block, known, strict=True)])
        for block in window.value_blocks()
    )


def mean_lengths(window: ScoringWindow) -> Tensor:
    """`sqrt(mean_q ||V_h[i] W_O,q||^2)` of every place before the window, float32 `[H, n]`; once a window."""
    return window.remember("mean_lengths", lambda: _mean_lengths(window))


def mean_deviations(window: ScoringWindow) -> Tensor:
    """`sqrt(mean_q ||(V_h[i] - mean V_h) W_O,q||^2)` of every place before the window, float32 `[H, n]`; once a window.

    The mean is over all that the head holds, the window included.
    """
    return window.remember(
        "mean_deviations", lambda: _mean_lengths(window, mean_by_head(window, window.value_blocks()))
    )


def _mean_lengths(window: ScoringWindow, centre: Tensor | None = None) -> Tensor:
    """Of values, or of what they are beside a `[H, value_dim]`."""
    mean = grams(window).mean(dim=1)
    lengths = []
    for block in window.value_blocks():
        values = block.float() if centre is None else block.float() - centre[:, None]
        pairs = zip(values, mean, strict=True)
        lengths.append(torch.stack([(own @ gram).mul_(own).sum(dim=-1) for own, gram in pairs]))
    return joined(lengths)[:, : window.num_evictable].clamp(min=0).sqrt()


def _squared(values: Tensor, gram: Tensor) -> Tensor:
    """`[G, tokens]`; one query head at a time, as each needs memory for all values again."""
    return torch.stack([(values @ one).mul_(values).sum(dim=-1) for one in gram])


def summed_distances(weights: Tensor, outputs: Tensor, gram: Tensor, values: Tensor, lengths: Tensor) -> Tensor:
    """`sum_j w_j[i] ||(v_i - y_j) W_O||^2`, multiplied out.

    Args:
        weights: `[G, rows, tokens]`, or `[G, rows, 1]` where they are the same for all tokens; not below zero.
        outputs: `[G, rows, value_dim]`.
        gram: `[G, value_dim, value_dim]`.
        values: `[tokens, value_dim]`.
        lengths: `[G, tokens]`, their `squared_lengths`.

    Returns:
        `[G, tokens]`.
    """
    projected = outputs @ gram
    own = (projected * outputs).sum(dim=-1, keepdim=True)
    mass = weights.sum(dim=1)
    if weights.shape[-1] == 1:  # one row does for all
        projected, own = ((weights * part).sum(dim=1, keepdim=True) for part in (projected, own))
        weights = torch.ones_like(weights[:, :1])
    crossed = torch.matmul(projected, values.T).mul_(-2).add_(own).mul_(weights)
    return crossed.sum(dim=1).add_(mass * lengths).clamp_(min=0)


def squared_distances(outputs: Tensor, values: Tensor) -> Tensor:
    """`||v_i - y_j||^2` without a projection, multiplied out in float64: where attention peaks, nearly all cancels.

    Args:
        outputs: float32 `[H, rows, value_dim]`.
        values: `[H, tokens, value_dim]`, any float dtype.

    Returns:
        float32 `[H, rows, tokens]`.
    """
    rows, entries = outputs.double(), values.double()
    lengths = [vectors.square().sum(dim=-1) for vectors in (rows, entries)]
    crossed = torch.baddbmm(lengths[1][:, None], rows, entries.transpose(1, 2), alpha=-2)
    return crossed.add_(lengths[0][..., None]).clamp_(min=0).float()


def over_rest(attention: Tensor) -> Tensor:
    """`a / (1 - a)`, `1 - a` at least 2**-10; same shape."""
    return attention / (1 - attention).clamp(min=_MIN_REST)


def squared_shares(attention: Tensor) -> Tensor:
    """`(a / (1 - a))^2`, `1 - a` at least 2**-10; same shape."""
    return over_rest(attention).square_()
