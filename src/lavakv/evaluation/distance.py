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


def log_probabilities(logits: Tensor) -> Tensor:
    """Log-softmax in float32 or wider, same shape."""
    return (logits if logits.itemsize >= 4 else logits.float()).log_softmax(dim=-1)


def distance(reference: Tensor, logits: Tensor) -> Distance:
    """Compare distributions at the same positions.

    Args:
        reference: `[positions, vocabulary]`, log-probabilities with the full cache.
        logits: the same shape, with the compressed one.
    """
    other = log_probabilities(logits)
    divergence = (reference.exp() * (reference - other)).sum(dim=-1).double()
    agreement = (reference.argmax(dim=-1) == other.argmax(dim=-1)).double()
    return Distance(max(float(divergence.mean()), 0.0), float(agreement.mean()))
