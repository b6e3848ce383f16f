"""One prompt in several rows of a batch, each row with a policy and a budget of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from transformers import PretrainedConfig

from lavakv.budgets.spec import BudgetSpec, KvBits
from lavakv.eviction.tolerance import check_scores_first
from lavakv.hf.cache import LavaCache
from lavakv.hf.geometry import check_policy
from lavakv.hf.rotation import check_rotation
from lavakv.policy.registry import get_policy
from lavakv.policy.rules import Need, Policy


class FanOutCache(LavaCache):
    """A cache whose rows hold the same prompt under as many policies and budgets; filled from a `Recording`.

    Args:
        config: the model's config.
        policies: one a row, names from `lavakv.policies()` or `Policy` objects.
        specs: one budget a row, all with the same window.
        store: as in `LavaCache`.
        kv_bits: likewise.
    """

    def __init__(
        self,
        config: PretrainedConfig,
        policies: Sequence[str | Policy],
        specs: Sequence[BudgetSpec],
        store: Literal["ragged", "masked"] = "ragged",
        kv_bits: KvBits | None = None,
    ) -> None:
        self._specs, self._policies = list(specs), [get_policy(policy) for policy in policies]
        super().__init__(config, None, policies[0], specs[0].window, store, kv_bits=kv_bits)
        for policy in self._policies:
            check_rotation(policy, config, self.layer_indices)
            check_policy(policy, config, self._geometry)
        for policy, spec in zip(self._policies, self._specs, strict=True):
            if spec.max_loss is not None:
                check_scores_first(policy)

    def reset(self) -> None:
        """See `LavaCache.reset`; the rows are those the cache was made for again."""
        super().reset()
        self._rows = list(range(len(self._specs)))

    def tokens_per_head(self, num_tokens: Sequence[int], columns: int, itemsize: int) -> list[int]:
        """See `LavaCache.tokens_per_head`; each row's budget is that of the row alone."""
        rows = zip(self._row_specs(len(num_tokens)), num_tokens, strict=True)
        return [self._resolved(spec, [tokens], columns, itemsize)[0] for spec, tokens in rows]

    @property
    def _needs_itemsize(self) -> bool:
        return any(spec.max_bytes is not None for spec in self._specs)

    def _needs(self, need: Need) -> bool:
        return any(need in policy.needs for policy in self._policies)

    def _row_specs(self, num_sequences: int) -> list[BudgetSpec]:
        assert num_sequences == len(self._rows)
        return [self._specs[row] for row in self._rows]

    def _row_policies(self, num_sequences: int) -> list[Policy]:
        assert num_sequences == len(self._rows)
        return [self._policies[row] for row in self._rows]

    def _note_rows(self, sequences: Sequence[int]) -> None:
        super()._note_rows(sequences)
        self._rows = [self._rows[row] for row in sequences]
