"""A forward on a `LavaCache` that holds its prompt: what is worked out once and read by every layer."""

from __future__ import annotations

from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from lavakv.attention import AttentionPlan
from lavakv.errors import InputError
from lavakv.eviction.columns import Columns, host_readable
from lavakv.hf.given_mask import visible_columns


class Masks(NamedTuple):
    """What new queries see.

    Attributes:
        tail: bool `[B, 1, q, tail]`, or None for all of it.
        past: bool `[B, 1, 1 or q, columns before the tail]`, or None for all that is held.
    """

    tail: Tensor | None = None
    past: Tensor | None = None


NOTHING_HIDDEN = Masks()
_plans: WeakKeyDictionary[Columns, AttentionPlan] = WeakKeyDictionary()  # of the caches that hold these columns


class NotedStep:
    """A forward that brings tokens behind those that a cache holds.

    Attributes:
        hidden_states: `[B, q, hidden]`, what entered the layer under way, where a later round needs its norms, or None.
    """

    def __init__(self) -> None:
        self.hidden_states: Tensor | None = None

    def pop_norms(self) -> Tensor | None:
        """Norms of the residual stream that entered the layer under way, float32 `[B, q]`, once; None if not seen."""
        hidden_states, self.hidden_states = self.hidden_states, None
        if hidden_states is None:
            return None
        norms: Tensor = hidden_states.detach().float().norm(dim=-1)  # as of a prompt, to the bit
        return norms


class AppendStep(NotedStep):
    """A forward on a cache that already holds its prompt.

    Args:
        num_queries: new columns `q`.
        columns: all columns seen, the new ones included.
        mask_given: whether the caller passed a mask.

    Attributes:
        attention: which path each kind of layer takes, the same plan in all forwards on a cache.
    """

    def __init__(self, num_queries: int, columns: Columns, mask_given: bool) -> None:
        super().__init__()
        self.attention = _plan(columns)
        self._num_queries, self._columns, self._mask_given = num_queries, columns, mask_given
        self._built: tuple[Any, Masks] | None = None

    def masks(self, mask: Any, tail_length: int, device: torch.device) -> Masks:
        """What the new queries see, by the mask that the model made or got; built once for all layers that share it.

        Without a mask, columns that were padding when they came stay hidden.
        """
        built = self._built
        if built is None or built[0] is not mask:
            built = self._built = (mask, self._build(mask, tail_length))
        found = built[1]
        if found is NOTHING_HIDDEN:
            return found
        return Masks(*(part if part is None else part.to(device) for part in found))

    def _build(self, mask: Any, tail_length: int) -> Masks:
        columns, count = self._columns, self._num_queries
        real = columns.real
        seen = visible_columns(mask, count, real.shape[0], real.device)
        if seen is None and count == 1 and not columns.any_padding:
            return NOTHING_HIDDEN
        if seen is not None and seen.shape[-1] != columns.length:
            raise InputError(
                "attention_mask",
                expected=f"a mask of all {columns.length} columns, seen and new",
                got=f"one of {seen.shape[-1]} columns in an attention layer",
                fix="Pass a mask of all columns the cache has seen, and the new ones.",
            )
        return Masks(self._tail(seen, tail_length), self._past(seen, columns.length - tail_length))

    def _past(self, seen: Tensor | None, num_past: int) -> Tensor | None:
        if seen is None or num_past == 0:
            return None
        seen, real = seen[..., :num_past], self._columns.real[:, None, :num_past]
        if host_readable(seen.device) and not bool((real & ~seen).any()):
            return None  # it hides nothing that could be held
        return seen.expand(real.shape[0], -1, -1)[:, None]

    def _tail(self, seen: Tensor | None, tail_length: int) -> Tensor | None:
        real, count = self._columns.real[:, -tail_length:], self._num_queries
        batch, device = real.shape[0], real.device
        shown = real[:, None] if seen is None else seen[..., -tail_length:].expand(batch, -1, -1)
        if not self._mask_given:
            shown = shown & real[:, None]
        if count == 1 and host_readable(device) and bool(shown.all()):
            return None
        itself = torch.eye(count, dtype=torch.bool, device=device)  # padding sees itself: no row may be empty
        among = shown[..., -count:]
        if shown.shape[1] == 1:
            among = among & real[:, None, -count:] & torch.ones_like(itself).tril()
        before = shown[..., :-count].expand(-1, count, -1)
        return torch.cat([before, among | itself], dim=-1)[:, None]


def _plan(columns: Columns) -> AttentionPlan:
    """The plan of the cache that holds these columns; it looks for itself whether it still fits."""
    plan = _plans.get(columns)
    if plan is None:
        plan = _plans[columns] = AttentionPlan()
    plan.renew()
    return plan
