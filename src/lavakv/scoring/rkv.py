"""R-KV's score (arXiv 2505.24133): attended entries whose keys are unlike the others of their head.

The authors' code (github.com/Zefan-Cai/R-KV) with the paper's weight of 0.1 for the attention, where the code's own is
0.07. One thing differs: an entry that no other resembles spares none, where the code takes the first one for it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from lavakv.scoring.blocks import empty_places, joined
from lavakv.scoring.held import num_held, tokens_between
from lavakv.scoring.pooling import max_pool
from lavakv.scoring.window import ScoringWindow

IMPORTANCE_WEIGHT = 0.1
SIMILAR = 0.5
KERNEL_SIZE = 7
_NORM_OFFSET = 1e-8
_FRACTION_BITS = 40  # spared cosines are summed as whole numbers: in any order, the sum is the same


def rkv_score(window: ScoringWindow) -> Tensor:
    """`0.1 max_pool(importance)[i] - 0.9 redundancy[i]`, float32 `[H, n]`."""
    importance = max_pool(importance_among_candidates(window), KERNEL_SIZE, window.places)
    return window.without_empty(IMPORTANCE_WEIGHT * importance - (1 - IMPORTANCE_WEIGHT) * redundancy(window))


def importance_among_candidates(window: ScoringWindow) -> Tensor:
    """Mean over the window's rows of the softmax over a head's candidates, of the group's largest logits; `[H, n]`."""
    heads, _, rows, _ = window.queries.shape
    largest = window.queries.new_full((heads, rows, 1), -torch.inf, dtype=torch.float32)
    total = torch.zeros_like(largest)
    if not window.num_evictable:
        return total[:, 0, :0]
    for block in window.logit_blocks():
        logits = block.amax(dim=1)
        higher = torch.maximum(largest, _largest(logits))
        reference = higher.clamp(min=torch.finfo(higher.dtype).min)  # -inf - -inf would be NaN
        total = total * (largest - reference).exp() + logits.sub_(reference).exp_().sum(dim=-1, keepdim=True)
        largest = higher
    reference = largest.clamp(min=torch.finfo(largest.dtype).min)
    total.masked_fill_(total == 0, 1.0)  # a row that sees no candidate
    return joined(block.amax(dim=1).sub_(reference).exp_().div_(total).mean(dim=1) for block in window.logit_blocks())


def redundancy(window: ScoringWindow) -> Tensor:
    """Softmax over a head's entries, the window's included, of how alike the others' keys are; float32 `[H, n]`.

    That is the mean over all entries `j` of the cosine of its key with that of `i`, 0 for `i` itself and where `i` is
    the latest that resembles `j`, by a cosine over 0.5.
    """
    lengths = joined(block.float().norm(dim=-1) for block in window.key_blocks()) + _NORM_OFFSET
    parts = [units.sum(dim=1, keepdim=True) for _, units in _unit_keys(window, lengths, window.block_tokens)]
    total = torch.stack(parts).sum(dim=0)
    sums = [
        (units * total).sum(dim=2) - units.square().sum(dim=2)
        for _, units in _unit_keys(window, lengths, window.block_tokens)
    ]
    means = (joined(sums) - spared(window, lengths)) / num_held(window)
    if window.caps is not None:
        means.masked_fill_(empty_places(window.caps, 0, window.num_tokens, window.num_evictable), -torch.inf)
    return torch.softmax(means, dim=1)[:, : window.num_evictable]


def spared(window: ScoringWindow, lengths: Tensor) -> Tensor:
    """Of each entry the cosines that do not count, float32 `[H, N]`: with those of which it is the latest likeness.

    All pairs of entries are compared, a tile of at most `max_block_elements` at a time.

    Args:
        window: whose keys.
        lengths: of the keys, float32 `[H, N]`.
    """
    heads, device = lengths.shape[0], lengths.device
    size = max(math.isqrt(window.max_block_elements // heads), 1)
    found = torch.zeros(lengths.numel(), dtype=torch.int64, device=device)
    first_places = torch.arange(heads, device=device)[:, None] * window.num_tokens
    for start, rows in _unit_keys(window, lengths, size):
        latest = torch.full(rows.shape[:2], -1, dtype=torch.int32, device=device)
        cosines = torch.zeros(rows.shape[:2], device=device)
        for first, columns in _unit_keys(window, lengths, size):
            tile = rows @ columns.transpose(1, 2)
            if first == start:
                tile.diagonal(dim1=1, dim2=2).zero_()
            places = torch.arange(tile.shape[2], dtype=torch.int32, device=device)
            last = torch.where(tile > SIMILAR, places, -1).amax(dim=2)
            own = tile.gather(2, last.clamp(min=0).long()[..., None])[..., 0]
            cosines = torch.where(last >= 0, own, cosines)
            latest = torch.where(last >= 0, last + first, latest)
        whole = (cosines.double() * (1 << _FRACTION_BITS)).long()
        found.scatter_add_(0, (first_places + latest.clamp(min=0)).flatten(), whole.flatten())
    return found.double().div_(float(1 << _FRACTION_BITS)).float().view(lengths.shape)


def _unit_keys(window: ScoringWindow, lengths: Tensor, size: int) -> Iterator[tuple[int, Tensor]]:
    """First place and keys of length one of blocks of `size` places, zeros in empty ones; `[H, tokens, head_dim]`."""
    for start in range(0, window.num_tokens, size):
        stop = min(start + size, window.num_tokens)
        units = tokens_between(window.keys, start, stop).float() / lengths[:, start:stop, None]
        if window.caps is not None:
            units.masked_fill_(empty_places(window.caps, start, stop, window.num_evictable)[..., None], 0.0)
        yield start, units


def _largest(logits: Tensor) -> Tensor:
    """Of each row, -inf where there is none; `[H, w, 1]` of `[H, w, tokens]`."""
    if logits.shape[2]:
        return logits.amax(dim=2, keepdim=True)
    return logits.new_full((*logits.shape[:2], 1), -torch.inf)
