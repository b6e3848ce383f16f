"""One dense prefill, recorded: any number of caches can be filled from it without reading the prompt again."""

from __future__ import annotations

import copy
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor, nn

from lavakv.eviction.plan import PromptPlan
from lavakv.eviction.records import RankedPrompt
from lavakv.hf.cache import LavaCache
from lavakv.hf.prompt import LayerPrompt
from lavakv.policy import Policy
from lavakv.scoring.window import ScoringWindow


@dataclass(frozen=True)
class RecordedPrompt(LayerPrompt):
    """A layer's prompt of one sequence that remembers the windows cut from it, with all that was computed on them."""

    windows: dict[int, ScoringWindow] = field(default_factory=dict)

    def window(self, sequence: int, plan: PromptPlan, visible: Tensor | None, layer: int) -> ScoringWindow:
        """See `LayerPrompt.window`; attention and norms are computed once for all budgets."""
        if plan.window not in self.windows:
            self.windows[plan.window] = super().window(sequence, plan, visible, layer)
        return self.windows[plan.window].with_budget(plan.tokens_per_head)


class Recording(NamedTuple):
    """A prompt that a model has read once.

    Attributes:
        decoder: the module whose forward was recorded.
        inputs: token ids `[1, columns]`.
        layers: compressed layers by their index in the model.
        other_layers: cache layers that are not compressed, by index.
        next_logits: `[vocabulary]`, what the model expects after the prompt.
        seconds: what the prefill took.
        ranked: rankings worked out so far.
    """

    decoder: nn.Module
    inputs: Tensor
    layers: dict[int, RecordedPrompt]
    other_layers: dict[int, Any]
    next_logits: Tensor
    seconds: float
    ranked: dict[Hashable, RankedPrompt]

    def fill(self, cache: LavaCache) -> LavaCache:
        """Let an empty cache take the prompt, as if it had been there when the model read it.

        Raises:
            LavaError: as a forward of the model would; the cache is unchanged.
        """
        cache.begin(self.decoder, self.inputs, None)
        try:
            cache.take_recorded(self.layers, copy.deepcopy(self.other_layers), self._rank)
        except BaseException:
            cache.end(succeeded=False)
            raise
        cache.end(succeeded=True)
        return cache

    def _rank(self, policy: Policy, window: ScoringWindow, num_guaranteed: int) -> RankedPrompt:
        """`RankedPrompt.of`, remembered by all that it depends on."""
        rule = policy.layer_rule if callable(policy.layer_rule) else policy.layer_rule == "entropy"
        budget = window.tokens_per_head if "tokens_per_head" in policy.needs else None
        key = (policy.score, rule, budget, num_guaranteed, window.layer, window.queries.shape[2])
        if key not in self.ranked:
            self.ranked[key] = RankedPrompt.of(policy, window, num_guaranteed)
        return self.ranked[key]
