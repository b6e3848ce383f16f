"""How far a compressed cache's next-token distributions are from the full cache's."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
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


@dataclass(frozen=True)
class Reference:
    """Next-token distributions with the full cache, for any number of comparisons.

    Attributes:
        log_probabilities: `[positions, vocabulary]`.
    """

    log_probabilities: Tensor

    @cached_property
    def probabilities(self) -> Tensor:
        """The same, not as logarithms."""
        return self.log_probabilities.exp()

    @cached_property
    def likeliest(self) -> Tensor:
        """The likeliest token at each position, int64 `[positions]`."""
        return self.log_probabilities.argmax(dim=-1)


def distance(reference: Reference, logits: Tensor) -> Distance:
    """Compare distributions at the same positions.

    Args:
        reference: with the full cache.
        logits: `[positions, vocabulary]`, with the compressed one.
    """
    other = log_probabilities(logits)
    agreement = (reference.likeliest == other.argmax(dim=-1)).double()
    difference = torch.sub(reference.log_probabilities, other, out=other)
    divergence = torch.linalg.vecdot(reference.probabilities, difference).double()
    return Distance(max(float(divergence.mean()), 0.0), float(agreement.mean()))
