"""`reach` for prompts that end in their question: a share of the budget is for what the last tokens look at.

An answer that is copied from the text goes on where they look, each of its tokens leading to the next. So the tokens
right behind what they look at count as well. Derivation and measurements: `docs/method.md`, "A share for the question".
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from lavakv.scoring.leave_one_out import mean_deviations, stream_norm
from lavakv.scoring.reach import budget_of, reach_score
from lavakv.scoring.window import ScoringWindow

SPAN = 9
BEHIND = 0.3  # these constants are chosen on three models, see docs/log.md
NONE_UP_TO, HALF_FROM = 32, 160  # entries per head between which the share grows from nothing to a half
MIN_DIVISOR = 1e-30  # a quotient by less might overflow


def reach_question_score(window: ScoringWindow) -> Tensor:
    """`max(s[i], t f[i] * sqrt(mean_q ||(V[i] - mean(V)) W_O,q||^2) / rms(r))`, float32 `[H, n]`, in a prompt.

    `s` is `reach_score`, `f` is `followed_attention`, `t` is chosen for the layer by `with_share`. In a later round,
    where the window's rows stand for the prompt's, it is `reach_score`. Needs what that needs.
    """
    scores = reach_score(window)
    if window.prompt is None or window.rotation is None:
        return scores
    followed = followed_attention(window) * mean_deviations(window) / stream_norm(window)
    return with_share(scores, followed, int(budget_of(window)) - window.queries.shape[2])


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

    With `K = entries * H`, what a layer keeps if all keep alike, `t` makes the `share K`-th largest of `others` equal
    to the `K`-th largest of `scores`. The share is a half from 160 entries on, nothing up to 32, and grows evenly
    between: the fewer there are, the more of them the largest scores need.

    Args:
        scores: float32 `[H, n]`.
        others: float32 `[H, n]`, not negative.
        entries: mean entries a head keeps, the window excluded.
    """
    kept = entries * len(scores)
    chosen = kept * (min(entries, HALF_FROM) - NONE_UP_TO) // (2 * (HALF_FROM - NONE_UP_TO))
    if not 0 < chosen <= kept < scores.numel():
        return scores
    least_kept = scores.flatten().topk(kept).values[-1]
    least_chosen = others.flatten().topk(chosen).values[-1]
    factor = torch.where(least_chosen > MIN_DIVISOR, least_kept / least_chosen, 0.0)
    return torch.maximum(scores, others * factor)
