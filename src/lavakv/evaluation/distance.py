"""How far a compressed cache's next-token distributions are from the full cache's."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lavakv.evaluation.variant import Variant


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
        """`[positions, vocabulary]`, not as logarithms."""
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


@dataclass(frozen=True, slots=True)
class Comparison:
    """One variant, one question.

    Attributes:
        variant: policy and budget.
        question: index of the question; 0 where the prompt holds it already.
        kl_nats: mean KL divergence from the full cache's next-token distributions, over its own greedy continuation.
        top1_agreement: share of these positions where the likeliest token is the same.
        estimated_loss: the paper's bound, summed over layers.
        kept_entries: entries of the prompt that compressed layers hold.
        kept_fraction: the same as a share of all.
        kv_bytes: bytes of keys and values right after the prompt, all layers.
        seconds: an equal share of what scoring, selecting and the short forward of its batch took.
    """

    variant: Variant
    question: int
    kl_nats: float
    top1_agreement: float
    estimated_loss: float
    kept_entries: int
    kept_fraction: float
    kv_bytes: int
    seconds: float

    def record(self) -> dict[str, Any]:
        """Ready for JSON."""
        named = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "variant"}
        return {"policy": self.variant.label, "budget": self.variant.budget_label, **named}
