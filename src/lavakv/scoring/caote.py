"""CAOTE's score (arXiv 2504.14051): change of the attention output when one entry is left out."""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor

from lavakv.scoring.blocks import joined
from lavakv.scoring.leave_one_out import over_rest, squared_distances
from lavakv.scoring.window import ScoringWindow


def caote_score(window: ScoringWindow) -> Tensor:
    """Group mean of `h_q[i] / (1 - h_q[i]) ||V[i] - y_q||_2`, float32 `[H, n]`.

    The method scores any set of attention scores `h` that sums to one, with `y = sum_i h[i] V[i]`. Here `h` is that of
    SnapKV before its pooling: the mean over the window's rows of the attention to all places, divided by its sum where
    a sink takes a part. `1 - h` is at least 2**-10.
    """
    means = [block.mean(dim=2) for block in window.blocks()]
    total = reduce(torch.add, (mean.sum(dim=-1, keepdim=True) for mean in means))
    total = total.clamp(min=torch.finfo(total.dtype).tiny)  # a sink may take all of it
    shares = [mean.div_(total) for mean in means]
    pairs = zip(shares, window.value_blocks(), strict=True)
    outputs = reduce(torch.add, (torch.bmm(share, values.float()) for share, values in pairs))
    pairs = zip(shares, window.value_blocks(), strict=True)
    changes = joined(_changes(share, outputs, values) for share, values in pairs)
    return window.without_empty(changes[:, : window.num_evictable])


def _changes(share: Tensor, outputs: Tensor, values: Tensor) -> Tensor:
    """Changes `[H, tokens]` of shares `[H, G, tokens]`, outputs `[H, G, dim]` and values `[H, tokens, dim]`."""
    return over_rest(share).mul_(squared_distances(outputs, values).sqrt_()).mean(dim=1)
