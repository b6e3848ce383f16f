"""The forward that brings the prompt: what each layer computed for it, and the scoring windows cut from that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lavakv.attention.request import AttentionSettings
from lavakv.eviction.shares import SequencePlan
from lavakv.hf.given_mask import is_explicit, last_rows, mask_rows
from lavakv.hf.projection import OutputProjection
from lavakv.hf.rotation import LayerRotation
from lavakv.scoring.output_scale import OutputScale
from lavakv.scoring.prompt import PromptRows, RowTotals
from lavakv.scoring.rotation import Rotation
from lavakv.scoring.window import ScoringWindow


class PromptStep:
    """The forward that brings the prompt.

    Attributes:
        real: bool `[B, columns]`, which columns are no padding.
        inputs: token ids `[B, columns]` or embeddings `[B, columns, hidden]`.
        position_ids: int `[B or 1, columns]` that the caller gave, or None.
        hidden_states: `[B, columns, hidden]`, what entered the layer under way, or None.
        position_embeddings: cosines and sines that the layer under way rotates by, as the model passed them, or None.
        attention_inputs: `[B, columns, hidden]`, what its attention was given, or None.
        totals: for each sequence what scores sum over layers.
    """

    def __init__(self, real: Tensor, inputs: Tensor, position_ids: Tensor | None = None) -> None:
        self.real, self.inputs = real, inputs
        self.position_ids = position_ids if position_ids is not None and position_ids.ndim == 2 else None
        self.hidden_states: Tensor | None = None
        self.position_embeddings: Any = None
        self.attention_inputs: Tensor | None = None
        self.totals = [RowTotals() for _ in range(real.shape[0])]
        self._window_rows: Tensor | None = None
        self._mask: Any = None

    def pop_hidden_states(self) -> Tensor | None:
        """What entered the layer under way, once: kept by reference until its attention is done."""
        hidden_states, self.hidden_states = self.hidden_states, None
        return hidden_states

    def pop_position_embeddings(self) -> Any:
        """What the layer under way rotates by, once."""
        embeddings, self.position_embeddings = self.position_embeddings, None
        return embeddings

    def pop_attention_inputs(self) -> Tensor | None:
        """What the attention of the layer under way was given, once."""
        inputs, self.attention_inputs = self.attention_inputs, None
        return inputs

    def visible(self, mask: Any, sequence: int, plan: SequencePlan) -> Tensor | None:
        """What one sequence's window sees, bool `[w, N]`, from the model's mask; None means causal."""
        if mask is not self._mask:  # layers may have masks of their own
            self._mask, self._window_rows = mask, None
            if mask is not None and is_explicit(mask):
                self._window_rows = last_rows(mask, plan.window, self.real.shape[0], self.real.device)
        if self._window_rows is None:
            return None
        return self._window_rows[sequence if self._window_rows.shape[0] > 1 else 0][:, plan.num_padding :]


@dataclass(frozen=True)
class LayerPrompt:
    """What a layer computed for the prompt.

    Attributes:
        queries: `[B, query_heads, columns, head_dim]`.
        keys: `[B, H, columns, head_dim]`.
        values: `[B, H, columns, value_dim]`.
        mask: the attention mask the model passed, of whatever kind.
        settings: scaling, softcap and sinks.
        projection: gives the output projection, the same one at each call, or None; only policies that need it ask.
        hidden_states: `[B, columns, hidden]`, the residual stream as it entered the layer, or None.
        rotation: how the layer rotates queries and keys, or None; only policies that need it ask.
        attention_inputs: `[B, columns, hidden]`, what the attention was given, where a policy needs it, or None.
        outputs: `[B, columns, query_heads, value_dim]`, what the output projection is given, where a norm stands
            between it and the residual stream, or None.
    """

    queries: Tensor
    keys: Tensor
    values: Tensor
    mask: Any
    settings: AttentionSettings
    projection: Callable[[], OutputProjection] | None = None
    hidden_states: Tensor | None = None
    rotation: LayerRotation | None = None
    attention_inputs: Tensor | None = None
    outputs: Tensor | None = None

    def window(
        self, sequence: int, plan: SequencePlan, visible: Tensor | None, layer: int, totals: RowTotals | None = None
    ) -> ScoringWindow:
        """The scoring window of one sequence, its padding cut away.

        Args:
            sequence: row of the batch.
            plan: its lengths.
            visible: bool `[w, N]`, what the window sees, or None for causal.
            layer: index of the layer in the model.
            totals: what scores sum over the layers of this sequence.
        """
        heads, columns = self.keys.shape[1:3]
        scaling, softcap, sinks = self.settings
        queries = self.queries[sequence].detach().view(heads, -1, columns, self.queries.shape[3])
        return ScoringWindow(
            queries=queries[:, :, columns - plan.window :],
            keys=[self.keys[sequence, :, plan.num_padding :].detach()],
            values=[self.values[sequence, :, plan.num_padding :].detach()],
            scaling=scaling,
            softcap=softcap,
            sinks=None if sinks is None else sinks.detach().view(heads, -1),
            visible=visible,
            layer=layer,
            tokens_per_head=plan.scored_for,
            output_weight=self.output_weight(plan, layer),
            prompt=PromptRows(
                queries[:, :, plan.num_padding :], self._visible_rows(sequence, plan.num_padding), totals
            ),
            residual_norms=self.residual_norms(sequence, columns - plan.window),
            rotation=self.rotation_of(sequence, plan, layer),
            hidden_states=self.inputs_of(sequence, plan),
            output_scale=self.output_scale(sequence, plan, layer),
            protected=plan.protected,
        )

    def output_weight(self, plan: SequencePlan, layer: int) -> Tensor | None:
        """`W_O` as `[H, G, value_dim, hidden]`, or None where the plan's policy does not need it.

        Raises:
            LavaError: the policy needs it and it cannot be had; see `OutputProjection.weight`.
        """
        if self.projection is None or "output_weight" not in plan.policy.needs:
            return None
        weight = self.projection().weight(f"policy {plan.policy.name!r} at layer {layer}").detach()
        return weight.view(self.keys.shape[1], -1, *weight.shape[1:])

    def output_scale(self, sequence: int, plan: SequencePlan, layer: int) -> OutputScale | None:
        """What a norm behind the output projection does at one sequence's window; None without one, or without need.

        Raises:
            LavaError: as `output_weight`.
        """
        needs = plan.policy.needs
        if self.outputs is None or "output_weight" not in needs or "residual_norms" not in needs:
            return None
        assert self.projection is not None
        outputs = self.outputs[sequence, self.outputs.shape[1] - plan.window :]
        return self.projection().scale(outputs, f"policy {plan.policy.name!r} at layer {layer}")

    def rotation_of(self, sequence: int, plan: SequencePlan, layer: int) -> Rotation | None:
        """The rotation of one sequence's rows, or None where it is not known or the plan's policy does not need it.

        Raises:
            UnsupportedError: the policy needs it and it cannot be had; see `LayerRotation.of_sequence`.
        """
        if self.rotation is None or "rotation" not in plan.policy.needs:
            return None
        columns = slice(plan.num_padding, self.keys.shape[2])
        argument = f"policy {plan.policy.name!r} at layer {layer}"
        return self.rotation.of_sequence(sequence, columns, self.keys.shape[3], argument)

    def inputs_of(self, sequence: int, plan: SequencePlan) -> Tensor | None:
        """What the attention was given for one sequence's tokens, or None where the plan's policy does not need it."""
        if self.attention_inputs is None or "hidden_states" not in plan.policy.needs:
            return None
        return self.attention_inputs[sequence, plan.num_padding :].detach()

    def residual_norms(self, sequence: int, first: int) -> Tensor | None:
        """L2 norms of one sequence's residual stream from a column on, float32 `[columns - first]`."""
        if self.hidden_states is None:
            return None
        norms: Tensor = self.hidden_states[sequence, first:].detach().float().norm(dim=-1)
        return norms

    def stream_norms(self, sequence: int, first: int) -> Tensor | None:
        """`residual_norms`, times the output's root mean square where a norm stands behind the output projection."""
        norms = self.residual_norms(sequence, first)
        if norms is None or self.outputs is None:
            return norms
        assert self.projection is not None
        return norms * self.projection().output_rms(self.outputs[sequence, first:], "model")

    def _visible_rows(self, sequence: int, num_padding: int) -> Callable[[int, int], Tensor] | None:
        """What the rows `start` to `stop` of one sequence see, padding cut away; None for causal."""
        if self.mask is None or not is_explicit(self.mask):
            return None

        def visible(start: int, stop: int) -> Tensor:
            seen = mask_rows(self.mask, num_padding + start, num_padding + stop, self.keys.shape[0], self.keys.device)
            return seen[sequence if seen.shape[0] > 1 else 0][:, num_padding:]

        return visible
