"""A share of the budget for what a prompt's last tokens look at, and for the tokens right behind that.

An answer that is copied from the text goes on where the last tokens look: each of its tokens leads to the next one.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from lavakv.scoring.window import ScoringWindow

SPAN = 9
BEHIND = 0.3  # these four constants are chosen on three models, see docs/log.md
NUM_PARTS = 4
FULL_AT = 192  # entries per head from which on the share is a whole part
MIN_DIVISOR = 1e-30  # a quotient by less might overflow


def followed_attention(window: ScoringWindow) -> Tensor:
    """`f[i] = max(a[i], 0.3 a[i - 1], ..., 0.3 a[i - 8])`, float32 `[H, n]`, where no place is empty.

    `a` is the window's mean attention, the largest of the query heads of a group.
    """
    paid = window.mean_attention.amax(dim=1)
    if not paid.numel():
        return paid
    before = functional.max_pool1d(functional.pad(paid, (SPAN - 1, 0))[:, None], SPAN, stride=1)[:, 0]
    return torch.maximum(paid, BEHIND * before)


def with_share(scores: Tensor, others: Tensor, entries: int) -> Tensor:
    """`max(scores, t others)`, float32 `[H, n]`: `t` lifts a share of the entries to the least score that is kept.

    With `K = entries * H`, what a layer keeps if all keep alike, `t` makes the `share K`-th largest of `others` equal to
    the `K`-th largest of `scores`. The share is a quarter from 192 entries on and less in proportion below: the fewer
    there are, the more of them the largest scores need.

    Args:
        scores: float32 `[H, n]`.
        others: float32 `[H, n]`, not negative.
        entries: mean entries a head keeps, the window excluded.
    """
    kept = entries * len(scores)
    chosen = kept * min(entries, FULL_AT) // (NUM_PARTS * FULL_AT)
    if not 0 < chosen <= kept < scores.numel():
        return scores
    least_kept = scores.flatten().topk(kept).values[-1]
    least_chosen = others.flatten().topk(chosen).values[-1]
    factor = torch.where(least_chosen > MIN_DIVISOR, least_kept / least_chosen, 0.0)
    return torch.maximum(scores, others * factor)
