"""lavakv's own score for both modes: the most that any query of the prompt, asked again at its end, gets from an entry.

A question that comes later looks for what the window's last tokens do not: which head would look, and where, shows in
the queries of the whole prompt once they are turned to its last position and see every entry. The scale is that of
`residual`: the length of the value behind the output projection, relative to the norm of the residual stream, so that
the heads of all layers can compete. Derivation and measurements: `docs/method.md`, "Queries asked again at the end".
Expected Attention (arXiv 2510.00636) moves the mean and covariance of the prompt's queries to later positions; the
largest attention of any row is DefensiveKV's (arXiv 2510.13334), of rows behind the entry KVzip's (arXiv 2505.23416).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from lavakv.scoring.blocks import QueryRows, joined, plain_logits, token_blocks
from lavakv.scoring.leave_one_out import mean_lengths, stream_norm
from lavakv.scoring.window import ScoringWindow

NUM_ROWS = 128


def reach_score(window: ScoringWindow) -> Tensor:
    """`max(M[i], mean(M)) * sqrt(mean_q ||V[i] W_O,q||^2) / rms(r)`, float32 `[H, n]`.

    `M` is `largest_attention`: what no row looked at counts as the mean over the head's candidates. `r` are the norms
    of the residual stream at the window's tokens; all is NaN where every one is zero. Needs the output projection,
    these norms, the prompt's queries and their rotation. In a later round, which has neither of the last two, the
    window's rows stand for the prompt's.
    """
    largest = largest_attention(window)
    if window.caps is None:
        mean = largest.mean(dim=1, keepdim=True)
    else:
        mean = largest.sum(dim=1, keepdim=True) / window.caps.clamp(min=1)[:, None]
    return window.without_empty(torch.maximum(largest, mean) * mean_lengths(window) / stream_norm(window))


def largest_attention(window: ScoringWindow) -> Tensor:
    """The most that any row and query head pays to each candidate from the prompt's end, float32 `[H, n]`."""
    if window.prompt is None or window.rotation is None:
        return window.reduce(lambda rows: rows.amax(dim=(1, 2)))
    return window.remember("largest_attention", lambda: _largest(window))


def asked_again(window: ScoringWindow) -> Tensor:
    """Queries of at most 128 rows, evenly spread, turned to the prompt's last position, float32 `[H, G, R, d]`."""
    assert window.prompt is not None
    assert window.rotation is not None
    count = window.num_tokens
    num_rows = min(NUM_ROWS, count)
    numbers = torch.arange(num_rows, device=window.queries.device)  # made there: an upload would make the host wait
    rows = count - 1 - numbers * count // num_rows
    queries = window.rotation.undo(window.prompt.queries[:, :, rows], rows)
    return window.rotation.at(-1).turn(queries)


def _largest(window: ScoringWindow) -> Tensor:
    queries = asked_again(window)
    heads, group, rows, head_dim = queries.shape
    block_tokens = max(window.max_block_elements // (heads * max(group * rows, head_dim)), 1)
    if len(window.keys) == 1 and window.num_tokens <= block_tokens:
        return _of_one_block(window, queries)[:, : window.num_evictable]

    def blocks() -> Iterator[Tensor]:
        for keys in token_blocks(window.keys, block_tokens):
            yield plain_logits(QueryRows(queries, 0, None), keys, window.scaling, window.softcap)

    total = queries.new_full((heads, group, rows), -torch.inf)
    if window.sinks is not None:
        total = window.sinks.float()[:, :, None].expand(heads, group, rows)
    for logits in blocks():
        if logits.shape[-1]:
            total = torch.logaddexp(total, logits.logsumexp(dim=-1))
    largest = joined(logits.sub_(total[..., None]).amax(dim=(1, 2)) for logits in blocks())
    return largest[:, : window.num_evictable].exp()


def _of_one_block(window: ScoringWindow, queries: Tensor) -> Tensor:
    """The same where all logits fit into memory; on a CPU one query head at a time, whose logits its caches hold."""
    size = 1 if queries.device.type == "cpu" else max(queries.shape[:2])
    largest: list[Tensor] = []
    for head, keys in zip(torch.split(queries, size), torch.split(window.keys[0], size), strict=True):
        parts = []
        for number, part in enumerate(torch.split(head, size, dim=1)):
            logits = plain_logits(QueryRows(part, 0, None), keys, window.scaling, window.softcap)
            if window.sinks is not None:
                own = window.sinks[len(largest) * size :, number * size :][: part.shape[0], : part.shape[1], None, None]
                logits = torch.cat([logits, own.float().expand(*logits.shape[:3], 1)], dim=-1)
            parts.append(torch.softmax(logits, dim=-1)[..., : keys.shape[1]].amax(dim=(1, 2)))
        largest.append(torch.stack(parts).amax(dim=0))
    return torch.cat(largest)
