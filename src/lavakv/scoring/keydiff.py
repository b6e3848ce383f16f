"""KeyDiff's score (arXiv 2504.15364): keys unlike the others are kept."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from lavakv.scoring.blocks import empty_places, joined
from lavakv.scoring.window import ScoringWindow


def keydiff_score(window: ScoringWindow) -> Tensor:
    """`-cos(K[i], mean over all keys of K / ||K||)`, float32 `[H, n]`."""
    sums = [units.sum(dim=1, keepdim=True) for units in _unit_keys(window)]
    anchor = torch.stack(sums).sum(dim=0) / window.num_tokens  # its direction counts, not its length
    blocks = (block.float() for block in window.key_blocks())
    cosines = joined(functional.cosine_similarity(block, anchor, dim=-1) for block in blocks)
    return window.without_empty(-cosines[:, : window.num_evictable])


def _unit_keys(window: ScoringWindow) -> Iterator[Tensor]:
    """Keys of length one, zeros in empty places, block by block, float32 `[H, tokens, head_dim]`."""
    start = 0
    for block in window.key_blocks():
        units, stop = functional.normalize(block.float(), dim=-1), start + block.shape[1]
        if window.caps is not None:
            units.masked_fill_(empty_places(window.caps, start, stop, window.num_evictable)[..., None], 0.0)
        yield units
        start = stop
