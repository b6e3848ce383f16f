"""What is known of one sequence before a round."""

from __future__ import annotations

from dataclasses import dataclass

from lavakv.policy import Policy


@dataclass(frozen=True, slots=True)
class SequencePlan:
    """One sequence of the batch.

    Attributes:
        num_tokens: real tokens `N` seen so far, those of the window included.
        num_padding: columns of left padding before them.
        tokens_per_head: budget `b`.
        window: window size `w`.
        policy: what decides.
    """

    num_tokens: int
    num_padding: int
    tokens_per_head: int
    window: int
    policy: Policy

    @property
    def num_evictable(self) -> int:
        """Positions before the window."""
        return max(self.num_tokens - self.window, 0)

    @property
    def keeps_all(self) -> bool:
        """Whether all tokens seen are within the budget."""
        return self.num_tokens <= self.tokens_per_head

    @property
    def mean_entries(self) -> int:
        """Mean entries a head keeps before the window."""
        return self.num_evictable if self.keeps_all else self.tokens_per_head - self.window
