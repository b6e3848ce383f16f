"""One prompt in several rows of a batch, each row with a budget of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from transformers import PretrainedConfig

from lavakv.budgets.spec import BudgetSpec
from lavakv.hf.cache import LavaCache
from lavakv.policy import Policy


class FanOutCache(LavaCache):
    """A cache whose rows hold the same prompt under one policy and as many budgets; filled from a `Recording`.

    Args:
        config: the model's config.
        specs: one budget a row, all with the same window.
        policy: a name from `lavakv.policies()` or a `Policy`.
        store: as in `LavaCache`.
    """

    def __init__(
        self,
        config: PretrainedConfig,
        specs: Sequence[BudgetSpec],
        policy: str | Policy,
        store: Literal["ragged", "masked"] = "ragged",
    ) -> None:
        self._specs = list(specs)
        super().__init__(config, None, policy, specs[0].window, store)

    def tokens_per_head(self, num_tokens: Sequence[int], columns: int, itemsize: int) -> list[int]:
        """See `LavaCache.tokens_per_head`; each row's budget is that of the row alone."""
        rows = zip(self._specs, num_tokens, strict=True)
        return [self._resolved(spec, [tokens], columns, itemsize)[0] for spec, tokens in rows]
