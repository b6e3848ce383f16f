"""LaProx's score (arXiv 2605.07234): the attention an entry gets times its projected value, comparable across layers.

There is no code by the authors. What their paper and independent implementations agree on: the L2 norm of the window's
attention to an entry times the L2 norm of its value behind the output projection, as a share of the layer's sum, the
attention's norm averaged over 7 neighbours, and one pool for all layers. Our reading: each query head of a group has
its own product and the group's mean is taken (the paper averages attention within a group, but the heads' projections
differ), neighbours are candidates only, and no head is guaranteed more than the window.
"""

from __future__ import annotations

from torch import Tensor

from lavakv.scoring.leave_one_out import plain_squared_lengths
from lavakv.scoring.pooling import average_pool
from lavakv.scoring.window import ScoringWindow

KERNEL_SIZE = 7


def laprox_score(window: ScoringWindow) -> Tensor:
    """`mean_q pool_7(||A_q[:, i]||_2) ||V[i] W_O,q||_2` over its sum of all heads and candidates of the layer.

    Float32 `[H, n]`, from 0 to 1; zeros where the sum is zero. Needs the output projection.
    """
    norms = window.reduce(lambda rows: rows.square().sum(dim=2).sqrt())
    lengths = plain_squared_lengths(window)[..., : window.num_evictable].clamp(min=0).sqrt()
    scores = window.without_empty((average_pool(norms, KERNEL_SIZE, window.places) * lengths).mean(dim=1))
    total = scores.sum()
    return scores / total.masked_fill(total == 0, 1.0)
