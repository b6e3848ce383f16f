"""What rows of a prompt look at once they are asked again at its end: which rows these are, and what they pay."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from lavakv.scoring.blocks import QueryRows, WindowRows, joined, masked_logits
from lavakv.scoring.distinctness import row_distinctness
from lavakv.scoring.window import ScoringWindow

NUM_ROWS = 160
NUM_LAST = 32
NUM_SPREAD = 32


def attention_from_the_end(window: ScoringWindow) -> Tensor:
    """What the query head that pays most pays to each candidate from the prompt's end, float32 `[2, H, n]`.

    First the most that any row of `asked_rows` pays, then the mean of the last rows.
    """
    if window.prompt is None or window.rotation is None:
        return window.reduce(lambda rows: _largest_and_mean(rows, rows.shape[2]))
    return window.remember("attention_from_the_end", lambda: _asked(window))


def _largest_and_mean(attention: Tensor, num_last: int) -> Tensor:
    """Of attention `[heads, G, rows, tokens]`: over all rows and over the last ones, `[2, heads, tokens]`."""
    return torch.stack([attention.amax(dim=(1, 2)), attention[:, :, -num_last:].mean(dim=2).amax(dim=1)])


def asked_rows(window: ScoringWindow) -> Tensor:
    """The rows of the prompt to ask again, int64 `[R]`: the 96 most distinct ones, 32 evenly spread, the last 32.

    `row_distinctness` is summed over the layers up to this one where those before are known: one layer alone says
    little of what is rare.
    """
    assert window.prompt is not None
    totals, own = window.prompt.totals, partial(row_distinctness, window)
    distinct = own() if totals is None else totals.through(window.layer, own)
    count, device = window.num_tokens, distinct.device  # made there: an upload would make the host wait
    before = count - _num_last(window)
    spread = min(NUM_SPREAD, before)
    even = before - 1 - torch.arange(spread, device=device) * before // max(spread, 1)
    fixed = torch.cat([even, torch.arange(before, count, device=device)])
    order = distinct.index_fill(0, fixed, -1.0).argsort(descending=True, stable=True)
    return torch.cat([order[: min(NUM_ROWS, count) - len(fixed)], fixed])


def _num_last(window: ScoringWindow) -> int:
    return min(NUM_LAST, window.num_tokens)


def asked_again(window: ScoringWindow) -> Tensor:
    """Queries of the rows of `asked_rows`, turned to the prompt's last position, float32 `[H, G, R, d]`."""
    assert window.prompt is not None
    assert window.rotation is not None
    rows = asked_rows(window)
    queries = window.rotation.undo(window.prompt.queries[:, :, rows], rows)
    return window.rotation.at(-1).turn(queries)


def _asked(window: ScoringWindow) -> Tensor:
    """On a CPU one query head at a time, whose logits its caches hold, all in the same memory."""
    queries = asked_again(window)
    size = 1 if queries.device.type == "cpu" else max(queries.shape[:2])
    workspace = _workspace(window, queries[:size, :size])
    found = []
    for first in range(0, queries.shape[0], size):
        heads = slice(first, first + size)
        keys = [chunk[heads] for chunk in window.keys]
        group = range(0, queries.shape[1], size)
        parts = [_of_heads(window, queries, keys, (heads, slice(query, query + size)), workspace) for query in group]
        found.append(torch.stack(parts).amax(dim=0))
    return torch.cat(found, dim=1)[..., : window.num_evictable]


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
    """Attention of the rows of some query heads to every position, `[2, heads, N]`; see `_largest_and_mean`."""
    own, num_tokens, num_last = queries[part], window.num_tokens, _num_last(window)
    sinks = None if window.sinks is None else window.sinks[part]
    if workspace is not None:
        rows = QueryRows(own, num_tokens, None)  # behind all keys, so that nothing needs a mask
        logits = masked_logits(rows, keys[0], window.scaling, window.softcap, sinks, workspace)
        return _largest_and_mean(torch.softmax(logits, dim=-1, out=logits)[..., :num_tokens], num_last)
    block_tokens = _block_tokens(window, own)
    everything = torch.ones(1, num_tokens, dtype=torch.bool, device=own.device)
    blocks = WindowRows(own, keys, window.scaling, window.softcap, sinks, everything)
    denominators = blocks.denominators(block_tokens)
    return joined(_largest_and_mean(block, num_last) for block in blocks.blocks(denominators, block_tokens))
