"""lavakv's own score for both modes: the most that any query of the prompt, asked again at its end, gets from an entry.

A question that comes later looks for what the window's last tokens do not: which head would look, and where, shows in
the queries of the whole prompt once they are turned to its last position and see every entry. Most of the rows asked
are those whose tokens are least like the others, as facts are; the rest are evenly spread. The scale is that of
`residual`: how far the value is from the head's mean behind the output projection, relative to the norm of the residual
stream, so that the heads of all layers can compete. Derivation and measurements: `docs/method.md`, "Queries asked again
at the end".
Expected Attention (arXiv 2510.00636) moves the mean and covariance of the prompt's queries to later positions; the
largest attention of any row is DefensiveKV's (arXiv 2510.13334), of rows behind the entry KVzip's (arXiv 2505.23416).
That keys unlike the others are worth keeping is KeyDiff's finding (arXiv 2504.15364), by the cosine to their mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from lavakv.scoring.blocks import QueryRows, WindowRows, joined, masked_logits
from lavakv.scoring.distinctness import distinctness, row_distinctness
from lavakv.scoring.leave_one_out import mean_deviations, stream_norm
from lavakv.scoring.window import ScoringWindow

NUM_ROWS = 128
NUM_SPREAD = 32
UNSEEN = 1 / 16  # with KEPT chosen on three models, see docs/log.md
KEPT = 1 / 8


def reach_score(window: ScoringWindow) -> Tensor:
    """`max(M[i], sum(M) / (16 b) u[i]^1.5) * sqrt(mean_q ||(V[i] - mean(V)) W_O,q||^2) / rms(r)`, float32 `[H, n]`.

    `M` is `largest_attention`, `u` is `distinctness`, `b` the budget in tokens per head, an eighth of the tokens where
    it is not known: what no row looked at counts the more, the easier another query can tell its key from the others.
    What all values of a head have in common, such as a bias, reaches the output whatever is evicted, so it does not
    count. `r` are norms of the residual stream at the window's tokens; all is NaN where every one is zero. Needs the
    output projection, these norms, the prompt's queries and their rotation. In a later round, which has neither of the
    last two, the window's rows stand for the prompt's.
    """
    largest, own = largest_attention(window), distinctness(window)
    unseen = UNSEEN / budget_of(window) * largest.sum(dim=1, keepdim=True) * own * own.sqrt()
    return window.without_empty(torch.maximum(largest, unseen) * mean_deviations(window) / stream_norm(window))


def budget_of(window: ScoringWindow) -> float:
    """The budget in tokens per head, an eighth of the tokens where it is not known."""
    return KEPT * window.num_tokens if window.tokens_per_head is None else window.tokens_per_head


def largest_attention(window: ScoringWindow) -> Tensor:
    """The most that any row and query head pays to each candidate from the prompt's end, float32 `[H, n]`."""
    if window.prompt is None or window.rotation is None:
        return window.reduce(lambda rows: rows.amax(dim=(1, 2)))
    return window.remember("largest_attention", lambda: _largest(window))


def asked_rows(window: ScoringWindow) -> Tensor:
    """The rows of the prompt to ask again, int64 `[R]`: the 96 most distinct ones and 32 evenly spread, the last too.

    `row_distinctness` is summed over the layers up to this one where those before are known: one layer alone says
    little of what is rare.
    """
    assert window.prompt is not None
    totals, own = window.prompt.totals, partial(row_distinctness, window)
    distinct = own() if totals is None else totals.through(window.layer, own)
    count = window.num_tokens
    spread = min(NUM_SPREAD, count)
    numbers = torch.arange(spread, device=distinct.device)  # made there: an upload would make the host wait
    even = count - 1 - numbers * count // spread
    order = distinct.index_fill(0, even, -1.0).argsort(descending=True, stable=True)
    return torch.cat([order[: min(NUM_ROWS, count) - spread], even])


def asked_again(window: ScoringWindow) -> Tensor:
    """Queries of the rows of `asked_rows`, turned to the prompt's last position, float32 `[H, G, R, d]`."""
    assert window.prompt is not None
    assert window.rotation is not None
    rows = asked_rows(window)
    queries = window.rotation.undo(window.prompt.queries[:, :, rows], rows)
    return window.rotation.at(-1).turn(queries)


def _largest(window: ScoringWindow) -> Tensor:
    """On a CPU one query head at a time, whose logits its caches hold, all in the same memory."""
    queries = asked_again(window)
    size = 1 if queries.device.type == "cpu" else max(queries.shape[:2])
    workspace = _workspace(window, queries[:size, :size])
    largest = []
    for first in range(0, queries.shape[0], size):
        heads = slice(first, first + size)
        keys = [chunk[heads] for chunk in window.keys]
        group = range(0, queries.shape[1], size)
        parts = [_of_heads(window, queries, keys, (heads, slice(query, query + size)), workspace) for query in group]
        largest.append(torch.stack(parts).amax(dim=0))
    return torch.cat(largest)[:, : window.num_evictable]


def _workspace(window: ScoringWindow, queries: Tensor) -> Tensor | None:
    """Memory for the logits of so many query heads, or None where they are too many and taken block by block."""
    if len(window.keys) > 1 or window.num_tokens > _block_tokens(window, queries):
        return None
    num_logits = queries.shape[:3].numel() * window.num_tokens
    return torch.empty(num_logits, dtype=torch.float32, device=queries.device)


def _block_tokens(window: ScoringWindow, queries: Tensor) -> int:
    per_token = queries.shape[0] * max(queries.shape[1] * queries.shape[2], queries.shape[3])
    return max(window.max_block_elements // per_token, 1)


def _of_heads(
    window: ScoringWindow, queries: Tensor, keys: Sequence[Tensor], part: tuple[slice, slice], workspace: Tensor | None
) -> Tensor:
    """Largest attention over the rows of some query heads to every position, `[heads, N]`."""
    own, num_tokens = queries[part], window.num_tokens
    sinks = None if window.sinks is None else window.sinks[part]
    if workspace is not None:
        rows = QueryRows(own, num_tokens, None)  # behind all keys, so that nothing needs a mask
        logits = masked_logits(rows, keys[0], window.scaling, window.softcap, sinks, workspace)
        return torch.softmax(logits, dim=-1, out=logits)[..., :num_tokens].amax(dim=(1, 2))
    block_tokens = _block_tokens(window, own)
    everything = torch.ones(1, num_tokens, dtype=torch.bool, device=own.device)
    blocks = WindowRows(own, keys, window.scaling, window.softcap, sinks, everything)
    denominators = blocks.denominators(block_tokens)
    return joined(block.amax(dim=(1, 2)) for block in blocks.blocks(denominators, block_tokens))
