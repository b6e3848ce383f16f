"""How far a compressed cache's next-token distributions are from the full cache's."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Distance(NamedTuple):
    """Averages over positions.

    Attributes:
        kl_nats: mean KL divergence from the full cache's distribution, in nats.
        top1_agreement: share of positions where the likeliest token is the same.
    """

    kl_nats: float
    top1_agreement: float


def distance(full: Tensor, compressed: Tensor) -> Distance:
    """Compare logits at the same positions.

    Args:
        full: `[positions, vocabulary]`.
        compressed: the same shape.
    """
    reference, other = full.float().log_softmax(dim=-1), compressed.float().log_softmax(dim=-1)
    divergence = (reference.exp() * (reference - other)).sum(dim=-1).double()
    agreement = (reference.argmax(dim=-1) == other.argmax(dim=-1)).double()
    return Distance(max(float(divergence.mean()), 0.0), float(agreement.mean()))
