"""What a `LavaCache` knows across layers: the batch, its columns, the forward under way."""

from __future__ import annotations

import weakref
from typing import Any

from torch import Tensor, nn

from lavakv.errors import CacheStateError, NotEnabledError
from lavakv.eviction.records import Budgets
from lavakv.hf.checks import check_heads, check_inputs, check_model
from lavakv.hf.columns import Columns, real_columns
from lavakv.hf.geometry import Geometry
from lavakv.hf.prompt import LayerPrompt
from lavakv.hf.step import AppendStep, PromptStep
from lavakv.store.base import LayerStore


class CacheState:
    """Shared by a cache and its layers; an enabled model drives it through `begin`, the layers, `end`.

    Attributes:
        columns: real tokens and padding of all columns seen.
        batch: sequences held, -1 while empty.
        budgets: what the policy decided, once the prompt is in.
        broken: did a forward fail half-way?
    """

    def __init__(self, geometry: Geometry) -> None:
        self._geometry = geometry
        self.columns = Columns()
        self.batch = -1
        self.budgets: Budgets | None = None
        self.broken = False
        self._model: weakref.ref[nn.Module] | None = None
        self._step: PromptStep | AppendStep | None = None

    def begin(self, model: nn.Module, inputs: Tensor, mask: Any) -> None:
        """Start a forward of `model` over ids `[B, q]` or embeddings `[B, q, hidden]` under its `attention_mask`.

        Raises:
            LavaError: whatever can be found wrong before a layer runs; the cache is unchanged.
        """
        self.require_sound()
        check_model(self._geometry, model, self._model)
        real = real_columns(mask, inputs.shape[0], inputs.shape[1], self.columns.length, inputs.device)
        seen = self.columns.real if self.columns.length else None
        check_inputs(inputs, real, self.batch, seen, self._geometry.max_positions)
        self.columns.append(real, all_real=mask is None)
        self._step = PromptStep(real) if seen is None else AppendStep(inputs.shape[1], self.columns)
        self._model, self.batch = weakref.ref(model), inputs.shape[0]

    def end(self, succeeded: bool) -> bool:
        """Close the forward. Returns whether it was one that brought the prompt."""
        step, self._step = self._step, None
        self.broken = self.broken or (step is not None and not succeeded)
        return isinstance(step, PromptStep)

    def require_sound(self) -> None:
        """Raise CacheStateError where a forward failed half-way."""
        if self.broken or self._step is not None:
            raise CacheStateError(
                "past_key_values", expected="a cache whose last forward finished", got="one that stopped half-way",
                fix="Call `cache.reset()` and send the prompt again.",
            )  # fmt: skip

    def prompt_step(self) -> PromptStep | None:
        """The forward under way, if it brings the prompt and is not planned yet.

        Raises:
            NotEnabledError: no enabled model started a forward.
            CacheStateError: a failed forward cut this one short.
        """
        if self._step is None:
            self.require_sound()
            raise NotEnabledError(
                "model",
                expected="a model that lavakv is enabled on",
                got="another",
                fix="Call `lavakv.enable(model)` first.",
            )
        return self._step if isinstance(self._step, PromptStep) and self._step.eviction is None else None

    def take_prompt(self, index: int, store: LayerStore, prompt: LayerPrompt) -> None:
        """Score and store a layer's prompt, right after its dense attention."""
        step = self._step
        assert isinstance(step, PromptStep)
        assert step.eviction is not None
        windows = []
        for row, plan in enumerate(step.eviction.prompts):
            visible = None if plan.keeps_all else step.visible(prompt.mask, row, plan)
            windows.append(None if plan.keeps_all else prompt.window(row, plan, visible, index))
        store.hold(prompt.keys, prompt.values)
        self.budgets = step.eviction.add_layer(windows)

    def note_hidden_states(self, hidden_states: Tensor) -> None:
        """Keep what enters a layer of the prompt's forward, by reference, until its attention is done."""
        if isinstance(self._step, PromptStep):
            self._step.hidden_states = hidden_states

    def pop_hidden_states(self) -> Tensor | None:
        """What `note_hidden_states` kept, once."""
        assert isinstance(self._step, PromptStep)
        hidden_states, self._step.hidden_states = self._step.hidden_states, None
        return hidden_states

    def check_layer(self, index: int, keys: Tensor) -> None:
        """Raise UnsupportedError where a layer has other KV heads than its configuration says."""
        check_heads(index, self._geometry.num_heads[self._geometry.layer_indices.index(index)], keys)

    def tail_mask(self, mask: Any, tail_length: int) -> Tensor | None:
        """What the new queries see of the tail; see `AppendStep.tail_mask`."""
        assert isinstance(self._step, AppendStep)
        return self._step.tail_mask(mask, tail_length)
