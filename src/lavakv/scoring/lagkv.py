"""LagKV's score (arXiv 2504.04704): entries that vary most, as seen from the entries that follow them.

The authors' own code keeps a fraction of each partition; their scorer for kvpress (`LagKVPress`) ranks the entries of a
partition, so that any budget can be met. This is the latter, with its numbers: 4 first tokens, partitions of 128. Left
open by both: what is always kept ranks by recency where the budget does not hold it, as theirs does in a prompt of less
than two partitions; a channel in which the reference does not vary counts as zero.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lavakv.scoring.held import at_first_positions, in_prompt_order, num_held, vectors_in_order
from lavakv.scoring.window import ScoringWindow

NUM_FIRST = 4
LAG_SIZE = 128


def lagkv_score(window: ScoringWindow, num_first: int = NUM_FIRST, lag_size: int = LAG_SIZE) -> Tensor:
    """Rank within its partition; the last partition before those, latest first, first positions before all.

    A head's entries, the window's included, are cut behind its first positions into partitions of `lag_size`. The last
    whole one and what is left over are not scored, because none follows them; they are less than two partitions. Whole
    numbers up to `3 lag_size`, float32 `[H, n]`.

    Args:
        window: the layer's last queries, its keys and values.
        num_first: first positions of the sequence, which rank before all.
        lag_size: entries of a partition.
    """
    held, is_first = num_held(window), at_first_positions(window, num_first)
    first = is_first.sum(dim=1, keepdim=True)
    places = torch.arange(window.num_evictable, device=held.device)
    unscored = first + ((held - first) // lag_size - 1).clamp(min=0) * lag_size
    score = torch.where(
        places >= unscored, lag_size + places - unscored, _ranks(window, places - first, num_first, lag_size)
    )
    return score.masked_fill(is_first, 3 * lag_size).float()


def lag_relative_spread(window: ScoringWindow, num_first: int, lag_size: int) -> Tensor:
    """`softmax(std(K')) + softmax(std(V'))` of the entries of each partition, float32 `[H, partitions, lag_size]`.

    `K'` are a partition's keys, each channel in units of its range over the next partition and counted from its minimum
    there; the deviation is that over channels, unbiased, the softmax runs over the partition. Computed a few partitions
    at a time. A head with fewer entries than another has any finite numbers in the partitions that it lacks.

    Args:
        window: the layer's last queries, its keys and values.
        num_first: first positions of the sequence, which belong to no partition.
        lag_size: entries of a partition.
    """
    count = window.num_evictable
    most = window.num_tokens - (min(num_first, count) if in_prompt_order(window) else 0)
    partitions = max(min(most // lag_size - 1, -(-count // lag_size)), 0)
    heads, dim = window.queries.shape[0], max(window.keys[0].shape[2], window.values[0].shape[2])
    step = max(window.max_block_elements // (heads * dim * lag_size) - 1, 1)
    spreads = [torch.zeros(heads, 0, lag_size, device=window.queries.device)]
    for start in range(0, partitions, step):
        stop = min(start + step, partitions)
        both = torch.zeros(heads, stop - start, lag_size, device=window.queries.device)
        for chunks in (window.keys, window.values):
            entries = vectors_in_order(window, chunks, num_first, start * lag_size, (stop + 1) * lag_size)
            both += _spread(entries.view(heads, -1, lag_size, entries.shape[2]))
        spreads.append(both)
    return torch.cat(spreads, dim=1)


def _spread(partitions: Tensor) -> Tensor:
    """Of all but the last of `[H, partitions, lag_size, dim]`, each relative to the next."""
    reference = partitions[:, 1:]
    low = reference.amin(dim=2, keepdim=True)
    width = reference.amax(dim=2, keepdim=True) - low
    relative = (partitions[:, :-1] - low).div_(width.masked_fill_(width == 0, torch.inf))
    if relative.shape[3] == 1:
        return torch.softmax(torch.zeros_like(relative[..., 0]), dim=-1)
    return torch.softmax(relative.std(dim=3), dim=-1)


def _ranks(window: ScoringWindow, entries: Tensor, num_first: int, lag_size: int) -> Tensor:
    """Worse entries of its partition, 0 to `lag_size - 1`, ties to the earlier one; int64 `[H, n]`.

    Args:
        window: the layer's last queries, its keys and values.
        entries: int64 `[H, n]`, each candidate's number, counted behind the first positions; those that are in no
            scored partition get any rank.
        num_first: first positions of the sequence.
        lag_size: entries of a partition.
    """
    spread = lag_relative_spread(window, num_first, lag_size)
    if not spread.numel():
        return torch.zeros_like(entries)
    best_first = spread.sort(dim=2, descending=True, stable=True).indices
    ranks = (lag_size - 1 - best_first.argsort(dim=2)).flatten(1)
    return ranks.gather(1, entries.clamp(0, ranks.shape[1] - 1))
