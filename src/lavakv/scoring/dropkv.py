"""DropKV's score (OpenReview MqfNzH3TVH): squared change of the attention output when one entry is left out."""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor
from torch.nn import functional

from lavakv.scoring.blocks import joined
from lavakv.scoring.leave_one_out import squared_distances
from lavakv.scoring.pooling import average_pool
from lavakv.scoring.window import ScoringWindow

ROWS = 8
KERNEL_SIZE = 11
EPSILON = 1e-6


def dropkv_score(window: ScoringWindow) -> Tensor:
    """Average pool of `mean_q sum_j (a_qj[i] / (1 - a_qj[i] + 1e-6))^2 ||V[i] - y_qj||_2^2`, float32 `[H, n]`.

    `j` runs over the window's last 8 rows, `y_qj` is the attention output of such a row. As in the authors' code
    (github.com/AozhongZhang/DropKV), which the numbers are from, the entries of the window take part in the pooling.
    """
    changes = _changes(window)
    before, own = changes[:, : window.num_evictable], changes[:, window.num_evictable :][:, : KERNEL_SIZE // 2]
    before = window.without_empty(before)
    if window.caps is None:
        table = torch.cat([before, own], dim=1)
    else:  # the window comes right behind a head's last candidate
        places = window.caps[:, None] + torch.arange(own.shape[1], device=own.device)
        table = functional.pad(before, (0, own.shape[1])).scatter_(1, places, own)
    return window.without_empty(average_pool(table, KERNEL_SIZE)[:, : window.num_evictable])


def _changes(window: ScoringWindow) -> Tensor:
    """Squared changes of all places, window included, summed over rows, mean over the group, float32 `[H, N]`."""
    outputs, group = _outputs(window), window.queries.shape[1]
    parts = []
    for block, values in zip(window.blocks(), window.value_blocks(), strict=True):
        paid = block[:, :, -ROWS:].flatten(1, 2)
        weights = (paid / (1 - paid + EPSILON)).square_()
        parts.append(weights.mul_(squared_distances(outputs, values)).sum(dim=1).div_(group))
    return joined(parts)


def _outputs(window: ScoringWindow) -> Tensor:
    """Attention outputs of the rows, float32 `[H, G * rows, value_dim]`."""
    pairs = zip(window.blocks(), window.value_blocks(), strict=True)
    return reduce(torch.add, (torch.bmm(block[:, :, -ROWS:].flatten(1, 2), values.float()) for block, values in pairs))
