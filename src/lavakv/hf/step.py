"""One forward pass through a model with a `LavaCache`: what is worked out once and read by every layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lavakv.eviction.plan import PromptPlan
from lavakv.eviction.prompt import PromptEviction
from lavakv.hf.columns import Columns, is_explicit, last_rows


class PromptStep:
    """The forward that brings the prompt.

    Attributes:
        real: bool `[B, columns]`, which columns are no padding.
        eviction: the driver; made when the first keys arrive and tell their dtype.
        hidden_states: `[B, columns, hidden]`, what entered the layer under way, or None.
    """

    def __init__(self, real: Tensor) -> None:
        self.real = real
        self.eviction: PromptEviction | None = None
        self.hidden_states: Tensor | None = None
        self._window_rows: Tensor | None = None
        self._rows_known = False

    def visible(self, mask: Any, sequence: int, plan: PromptPlan) -> Tensor | None:
        """What one sequence's window sees, bool `[w, N]`, from the model's mask; None means causal."""
        if not self._rows_known:
            if is_explicit(mask):
                self._window_rows = last_rows(mask, plan.window, self.real.shape[0], self.real.device)
            self._rows_known = True
        if self._window_rows is None:
            return None
        return self._window_rows[sequence if self._window_rows.shape[0] > 1 else 0][:, plan.num_padding :]


class AppendStep:
    """A forward on a cache that already holds its prompt.

    Args:
        num_queries: new columns `q`.
        columns: all columns seen, the new ones included.
    """

    def __init__(self, num_queries: int, columns: Columns) -> None:
        self._num_queries, self._columns = num_queries, columns
        self._tail_mask: Tensor | None = None
        self._mask_known = False

    def tail_mask(self, mask: Any, tail_length: int) -> Tensor | None:
        """What the new queries see of the tail, bool `[B, 1, q, tail]`, or None for all of it.

        Built once a forward: the real columns of the tail before the new ones, and the model's own mask (or a causal
        one) among the new ones, where image tokens may look ahead.
        """
        if not self._mask_known:
            if self._num_queries > 1 or self._columns.any_padding:
                self._tail_mask = self._built(mask, tail_length)
            self._mask_known = True
        return self._tail_mask

    def _built(self, mask: Any, tail_length: int) -> Tensor:
        real, count = self._columns.real[:, -tail_length:], self._num_queries
        batch, device = real.shape[0], real.device
        if is_explicit(mask) and count > 1:
            among = last_rows(mask, count, batch, device)[..., -count:]
        else:
            among = torch.ones(1, count, count, dtype=torch.bool, device=device).tril()
        itself = torch.eye(count, dtype=torch.bool, device=device)  # padding sees itself: no row may be empty
        among = (among & real[:, None, -count:]) | itself
        before = real[:, None, :-count].expand(-1, count, -1)
        return torch.cat([before, among], dim=-1)[:, None]
