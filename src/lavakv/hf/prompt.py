"""One layer's prompt as the attention function sees it, and the scoring windows cut from it."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from lavakv.attention.request import AttentionSettings
from lavakv.eviction.prompt import PromptPlan
from lavakv.scoring.window import ScoringWindow


class LayerPrompt(NamedTuple):
    """What a layer computed for the prompt.

    Attributes:
        queries: `[B, query_heads, columns, head_dim]`.
        keys: `[B, H, columns, head_dim]`.
        values: `[B, H, columns, value_dim]`.
        mask: the attention mask the model passed, of whatever kind.
        settings: scaling, softcap and sinks.
    """

    queries: Tensor
    keys: Tensor
    values: Tensor
    mask: Any
    settings: AttentionSettings

    def window(self, sequence: int, plan: PromptPlan, visible: Tensor | None, layer: int) -> ScoringWindow:
        """The scoring window of one sequence, its padding cut away.

        Args:
            sequence: row of the batch.
            plan: its lengths.
            visible: bool `[w, N]`, what the window sees, or None for causal.
            layer: index of the layer in the model.
        """
        heads, columns = self.keys.shape[1:3]
        scaling, softcap, sinks = self.settings
        queries = self.queries[sequence, :, columns - plan.window :].detach()
        return ScoringWindow(
            queries=queries.reshape(heads, -1, *queries.shape[1:]),
            keys=[self.keys[sequence, :, plan.num_padding :].detach()],
            values=[self.values[sequence, :, plan.num_padding :].detach()],
            scaling=scaling,
            softcap=softcap,
            sinks=None if sinks is None else sinks.detach().view(heads, -1),
            visible=visible,
            layer=layer,
        )
