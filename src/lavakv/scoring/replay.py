"""The attention of replayed rows, kept as a maximum per position, so that memory does not grow with their number.

KVzip (arXiv 2505.23416) lets the model repeat its prompt chunk by chunk while it attends to all of it. What counts is
the softmax over the keys of the first positions, of the chunk as it stands in the prompt, and of the rows themselves.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lavakv.scoring.blocks import QueryRows, masked_logits
from lavakv.scoring.leave_one_out import MIN_NORM
from lavakv.scoring.prompt import ReplayMaxima

NUM_FIRST = 4  # positions that join every chunk's softmax and always stay; the first author's code for kvpress has 4


_BLOCK_ELEMENTS = 2**22  # 16 MiB of float32: a CPU takes 2.4 times as long over larger ones


class ReplayRows(NamedTuple):
    """The rows of one chunk of a replay in one layer, behind the whole prompt.

    Attributes:
        queries: `[H, G, rows, head_dim]`.
        prompt_keys: `[H, N, head_dim]`, of the prompt, padding left out.
        keys: `[H, rows, head_dim]`, of the rows themselves.
        start: first position of the chunk in the prompt.
        stop: position after its last one.
        norms: float32 `[rows]`, L2 norms of the residual stream the rows were made from, or None.
    """

    queries: Tensor
    prompt_keys: Tensor
    keys: Tensor
    start: int
    stop: int
    norms: Tensor | None = None


def chunk_maxima(
    rows: ReplayRows,
    scaling: float,
    softcap: float | None = None,
    sinks: Tensor | None = None,
    max_block_elements: int = _BLOCK_ELEMENTS,
) -> ReplayMaxima:
    """Maxima over the rows of the attention to each position of their chunk, `[H, G, stop - start]`.

    A row whose stream is zero has no attention relative to it and is left out of `per_norm`.

    Args:
        rows: the chunk's rows.
        scaling: factor on query-key products.
        softcap: logit softcap, or None.
        sinks: `[H, G]` attention-sink logits, or None.
        max_block_elements: float32 elements of attention at a time, at most, but for a single row.
    """
    num_first = min(NUM_FIRST, rows.start)
    seen = [rows.prompt_keys[:, :num_first], rows.prompt_keys[:, rows.start : rows.stop], rows.keys]
    keys, before = torch.cat(seen, dim=1), num_first + rows.stop - rows.start
    heads, group, num_rows, _ = rows.queries.shape
    best = torch.zeros(heads, group, before - num_first, dtype=torch.float32, device=keys.device)
    best_per_norm = None if rows.norms is None else torch.zeros_like(best)
    step = max(max_block_elements // (heads * group * (keys.shape[1] + 1)), 1)
    for first in range(0, num_rows, step):
        part = rows.queries[:, :, first : first + step]
        visible = before + first + part.shape[2]
        logits = masked_logits(QueryRows(part, before + first, None), keys[:, :visible], scaling, softcap, sinks)
        paid = torch.softmax(logits, dim=-1)[..., num_first:before]
        torch.maximum(best, paid.amax(dim=2), out=best)
        if best_per_norm is not None and rows.norms is not None:
            relative = paid * _inverse(rows.norms[first : first + step])[:, None]
            torch.maximum(best_per_norm, relative.amax(dim=2), out=best_per_norm)
    return ReplayMaxima(best, best_per_norm)


def _inverse(norms: Tensor) -> Tensor:
    there = norms >= MIN_NORM
    return there / torch.where(there, norms, 1.0)
