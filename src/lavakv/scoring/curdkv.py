"""CurDKV's score (arXiv 2509.15038): approximate leverage of an entry's key times that of its value.

Of the variants that the paper and its authors' code (`CURPress` in kvpress) have, this is the code's default: no random
projection, leverage within blocks of 16 entries, the product of key and value, the first 4 tokens before all. What they
leave open: a block whose keys, or values, are all zero has no leverage.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from lavakv.scoring.blocks import joined
from lavakv.scoring.held import at_first_positions, numbers_in_order
from lavakv.scoring.window import ScoringWindow

NUM_FIRST = 4
BLOCK_SIZE = 16


def curdkv_score(window: ScoringWindow) -> Tensor:
    """`l_K[i] l_V[i]` as a share of its sum over all of the head's entries; 1 at the first 4 positions.

    `l_K[i] = ||K[i]||_2^2 / sum over the block of i`, likewise `l_V`; blocks of 16 entries, from the first one, the
    window's included. Float32 `[H, n]`, from 0 to 1.
    """
    leverage = _leverage(window, window.key_blocks()) * _leverage(window, window.value_blocks())
    shares = _shares(leverage)[:, : window.num_evictable]
    return shares.masked_fill(at_first_positions(window, NUM_FIRST), 1.0)


def _leverage(window: ScoringWindow, blocks: Iterable[Tensor]) -> Tensor:
    """Squared length of each of a head's entries, as a share of its block; float32 `[H, N]` in the entries' order."""
    squares = joined(block.float().square().sum(dim=-1) for block in blocks)
    entries = numbers_in_order(window, squares)
    padded = torch.nn.functional.pad(entries, (0, -entries.shape[1] % BLOCK_SIZE))
    return _shares(padded.view(len(padded), -1, BLOCK_SIZE)).flatten(1)[:, : entries.shape[1]]


def _shares(numbers: Tensor) -> Tensor:
    """Of the sum over the last dimension; zeros where that is zero."""
    total = numbers.sum(dim=-1, keepdim=True)
    return numbers / total.masked_fill(total == 0, 1.0)
