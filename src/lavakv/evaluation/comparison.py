"""What a sweep compares with, and what it finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from lavakv.evaluation.distance import Reference
from lavakv.evaluation.variant import Variant


class Continuation(NamedTuple):
    """What the full cache says after a context.

    Attributes:
        tokens: int64 `[1, tokens]`, what is fed after the context: the question, if it comes later, and greedy tokens.
        reference: of the next token at the last positions.
    """

    tokens: Tensor
    reference: Reference


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
