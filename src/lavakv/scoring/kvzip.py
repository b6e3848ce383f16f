"""KVzip's score (arXiv 2505.23416) and KVzip+ (arXiv 2601.07891): what is looked at when the prompt is repeated."""

from __future__ import annotations

from torch import Tensor

from lavakv.errors import InputError
from lavakv.scoring.leave_one_out import plain_squared_lengths
from lavakv.scoring.replay import NUM_FIRST
from lavakv.scoring.window import ScoringWindow

_FIRST = 2.0**64  # above every score, and sums of a few times that are finite


def kvzip_score(window: ScoringWindow) -> Tensor:
    """Largest attention of any replayed row and query head of the group, float32 `[H, n]`. Needs the replay.

    The first four positions come first, the earliest ahead.
    """
    assert window.replay is not None
    return _first_first(window.replay.attention[..., : window.num_evictable].amax(dim=1))


def kvzip_plus_score(window: ScoringWindow) -> Tensor:
    """`max_{j, q} A_q[j, i] ||V[i] W_O,q||_2 / ||h_j||` over replayed rows, float32 `[H, n]`.

    `h_j` is the residual stream that entered the layer at the row. Needs the replay with these norms, and the output
    projection. The first four positions come first, the earliest ahead.

    Raises:
        InputError: a replay without the norms.
    """
    assert window.replay is not None
    if window.replay.per_norm is None:
        raise InputError(
            "replay", expected="maxima relative to the norms of the residual stream (`per_norm`)", got="none",
            fix="Pass the norms with the replay's rows, or use `kvzip`.",
        )  # fmt: skip
    n = window.num_evictable
    lengths = plain_squared_lengths(window)[..., :n].clamp(min=0).sqrt()
    return _first_first((window.replay.per_norm[..., :n] * lengths).amax(dim=1))


def _first_first(scores: Tensor) -> Tensor:
    for position in range(min(NUM_FIRST, scores.shape[1])):
        scores[:, position] = _FIRST * (NUM_FIRST - position)
    return scores
