"""A warning where a cache holds more than its budget because text came after its first forward."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence

_LIBRARIES = {"lavakv", "transformers", "torch", "accelerate", "peft"}


class TailWatch:
    """Compares what came uncompressed behind a prompt with what its budget leaves and with the tokens announced.

    Args:
        tokens_per_head: budget of each sequence.
        num_tokens: prompt tokens of each sequence.
        num_columns: columns of the prompt, padding included.
    """

    def __init__(self, tokens_per_head: Sequence[int], num_tokens: Sequence[int], num_columns: int) -> None:
        held = [min(pair) for pair in zip(tokens_per_head, num_tokens, strict=True)]
        self._budget, self._held = min(zip(tokens_per_head, held, strict=True), key=lambda pair: pair[0] - pair[1])
        self._num_columns = num_columns
        self._warned = False

    def check(self, num_columns: int, num_announced: int) -> None:
        """Warn once where entries beyond the budget outnumber the new tokens that were announced.

        Where nobody said how many are to come, as many as the budget itself are expected.

        Args:
            num_columns: all columns seen, those of the forward under way included.
            num_announced: by `generate`, `LavaCache(max_new_tokens=...)` or `reserve`; 0 if nobody said.
        """
        appended = num_columns - self._num_columns
        held = self._held + appended
        if self._warned or held - self._budget <= (num_announced or self._budget):
            return
        self._warned = True
        warnings.warn(
            f"lavakv: the cache holds {held} entries per head for a budget of {self._budget}. Only the first forward "
            f"of a cache is compressed, and {appended} tokens came after it. `LavaCache(evict='turns')` compresses "
            "later ones too; otherwise send the whole prompt in the first one (a system prompt together with what "
            "follows it), or say with `LavaCache(max_new_tokens=...)` how many tokens are to come uncompressed.",
            stacklevel=stacklevel(),
        )


def stacklevel() -> int:
    """How far up the first frame is that belongs to none of the libraries: the user's own line."""
    frame, level = sys._getframe(2), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _LIBRARIES:
        frame, level = frame.f_back, level + 1
    return level
