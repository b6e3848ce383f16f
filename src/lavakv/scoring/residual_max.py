"""lavakv's own score for single facts: the largest attention any row pays, times what the value adds to the stream.

A mean over rows loses what one row of one query head looked at once; the maximum keeps it. The worst case over the
window is DefensiveKV's (arXiv 2510.13334); its scale here is that of `residual`: the length of the value behind the
output projection, relative to the norm of the residual stream, so that the heads of all layers can compete.
"""

from __future__ import annotations

from torch import Tensor

from lavakv.scoring.defensivekv import defensive_attention
from lavakv.scoring.leave_one_out import mean_lengths, stream_norm
from lavakv.scoring.window import ScoringWindow


def residual_max_score(window: ScoringWindow) -> Tensor:
    """`D[i] * sqrt(mean_q ||V[i] W_O,q||^2) / rms(r)`, float32 `[H, n]`.

    `D` is `defensive_attention`, `r` the norms of the residual stream at the window's tokens; rows whose stream is zero
    are left out, and all is NaN where every row's is. Needs the output projection and these norms.
    """
    return window.without_empty(defensive_attention(window) * mean_lengths(window) / stream_norm(window))
