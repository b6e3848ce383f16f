"""lavakv's own score for both modes: the most that any query of the prompt, asked again at its end, gets from an entry.

A question that comes later looks for what the window's last tokens do not: which head would look, and where, shows in
the queries of the whole prompt once they are turned to its last position and see every entry. Most of the rows asked
are those whose tokens are least like the others, as facts are; some are evenly spread. The last ones are asked in any
case and count more, with what stands beside what they look at: they may hold the question. The scale is that of
`residual`: how far the value is from the head's mean behind the output projection, relative to the norm of the residual
stream, so that the heads of all layers can compete. Derivation and measurements: `docs/method.md`, "Queries asked again
at the end".
Expected Attention (arXiv 2510.00636) moves the mean and covariance of the prompt's queries to later positions; the
largest attention of any row is DefensiveKV's (arXiv 2510.13334), of rows behind the entry KVzip's (arXiv 2505.23416).
That keys unlike the others are worth keeping is KeyDiff's finding (arXiv 2504.15364), by the cosine to their mean; that
neighbours of what the last rows look at are, SnapKV's (arXiv 2404.14469).
"""

from __future__ import annotations

import torch
from torch import Tensor

from lavakv.scoring.asked_again import attention_from_the_end
from lavakv.scoring.distinctness import distinctness
from lavakv.scoring.leave_one_out import mean_deviations, stream_norm
from lavakv.scoring.pooling import max_pool
from lavakv.scoring.window import ScoringWindow

LAST = 4  # this and BESIDE chosen on two models, UNSEEN and KEPT on three, see docs/log.md
BESIDE = 8
NEIGHBOURS = 7
UNSEEN = 1 / 16
KEPT = 1 / 8


def reach_score(window: ScoringWindow) -> Tensor:
    """`max(M[i], 4 m[i], 8 f m[i - 3 : i + 4], sum(M) / (16 b) u[i]^1.5) * d[i] / rms(r)`, float32 `[H, n]`.

    `M` and `m` are `attention_from_the_end`: the most that any row looks at an entry, and the mean of the last rows,
    which say best what is asked now. What stands beside an entry that they look at, three places either way, counts by
    the fraction `f = b / N` of the head's entries that is kept: words are of several tokens, and a small budget has no
    room for them. `u` is `distinctness`, `b` the budget in tokens per head, an eighth of the tokens where it is not
    known: what no row looked at counts the more, the easier another query can tell its key from the others.
    `d[i] = sqrt(mean_q ||(V[i] - mean(V)) W_O,q||^2)`: what all values of a head have in common, such as a bias,
    reaches the output whatever is evicted, so it does not count. `r` are norms of the residual stream at the window's
    tokens; all is NaN where every one is zero. Needs the output projection, these norms, the prompt's queries and their
    rotation. In a later round, which has neither of the last two, the window's rows stand for the prompt's and for its
    last.
    """
    (largest, last), own = attention_from_the_end(window), distinctness(window)
    budget = KEPT * window.num_tokens if window.tokens_per_head is None else window.tokens_per_head
    unseen = UNSEEN / budget * largest.sum(dim=1, keepdim=True) * own * own.sqrt()
    beside = BESIDE * _kept_fraction(window, budget) * max_pool(last, NEIGHBOURS, window.places)
    attended = torch.maximum(torch.maximum(largest, LAST * last), torch.maximum(beside, unseen))
    return window.without_empty(attended * mean_deviations(window) / stream_norm(window))


def _kept_fraction(window: ScoringWindow, budget: float) -> float | Tensor:
    """The budget over the entries that each head holds, at most 1; `[H, 1]` where they are unequally many."""
    if window.caps is None:
        return min(budget / window.num_tokens, 1.0)
    return (budget / (window.caps + window.queries.shape[2])).clamp(max=1.0)[:, None]
