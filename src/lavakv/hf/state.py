"""What a `LavaCache` knows across layers: the batch, its columns, the forward under way."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from lavakv.errors import CacheStateError
from lavakv.eviction.records import Budgets
from lavakv.eviction.round import Round
from lavakv.hf.checks import check_batch, check_heads, check_inputs, check_model, not_announced
from lavakv.hf.columns import Columns
from lavakv.hf.continuation import tokens_of
from lavakv.hf.geometry import Geometry
from lavakv.hf.given_mask import real_columns, shows_padding
from lavakv.hf.prompt import LayerPrompt
from lavakv.hf.step import AppendStep, Masks, PromptStep
from lavakv.hf.versions import changed
from lavakv.scoring.window import ScoringWindow
from lavakv.store.base import LayerStore


class CacheState:
    """Shared by a cache and its layers; an enabled model drives it through `begin`, the layers, `end`.

    Attributes:
        columns: real tokens and padding of all columns seen.
        batch: sequences held, -1 while empty.
        budgets: what the policy decided, once the prompt is in.
        broken: did a forward fail half-way?
        noted_ids: `[B, q]`, the ids that the model around the decoder was called with, or None.
    """

    def __init__(self, geometry: Geometry) -> None:
        self._geometry = geometry
        self.columns = Columns()
        self.batch = -1
        self.budgets: Budgets | None = None
        self.broken = False
        self.noted_ids: Tensor | None = None
        self._model: weakref.ref[nn.Module] | None = None
        self._step: PromptStep | AppendStep | None = None

    def begin(self, model: nn.Module, inputs: Tensor, mask: Any, tail_start: int) -> None:
        """Start a forward of `model`.

        Args:
            model: the decoder.
            inputs: ids `[B, q]` or embeddings `[B, q, hidden]`.
            mask: its `attention_mask`.
            tail_start: columns before the tail, of which heads hold only survivors.

        Raises:
            LavaError: whatever can be found wrong before a layer runs; the cache is unchanged.
        """
        self.require_sound()
        check_model(self._geometry, model, self._model, filled=self.batch != -1)
        check_batch(inputs, self.batch)
        real = real_columns(mask, inputs.shape[0], inputs.shape[1], self.columns.length, inputs.device)
        seen = self.columns.real if self.columns.length else None
        check_inputs(inputs, real, seen, self._geometry.max_positions)
        brought_back = None if seen is None else shows_padding(mask, seen[:, :tail_start])
        noted, self.noted_ids = self.noted_ids, None
        ids = noted if noted is not None and noted.shape == inputs.shape[:2] else inputs
        self.columns.append(real, mask is None, tokens_of(ids).to(inputs.device))
        self.columns.note_brought_back(brought_back)
        self._step = PromptStep(real) if seen is None else AppendStep(inputs.shape[1], self.columns, mask is not None)
        self._model, self.batch = weakref.ref(model), inputs.shape[0]

    def end(self, succeeded: bool) -> bool:
        """Close the forward. Returns whether it was one that brought the prompt."""
        step, self._step = self._step, None
        self.broken = self.broken or (step is not None and not succeeded)
        return isinstance(step, PromptStep)

    def __getstate__(self) -> dict[str, Any]:
        """All but the model that filled the cache: a copy in another process meets another object of it."""
        return {**self.__dict__, "_model": None}

    def filled_by(self, other: CacheState) -> None:
        """Let the model that filled another state be the one that filled this copy of it."""
        self._model = other._model

    def require_sound(self) -> None:
        """Raise CacheStateError where a forward failed half-way."""
        if self.broken or self._step is not None:
            raise CacheStateError(
                "cache", expected="a cache whose last forward finished", got="one that stopped half-way",
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
            raise not_announced()
        return self._step if isinstance(self._step, PromptStep) and self._step.eviction is None else None

    def take_prompt(self, index: int, store: LayerStore, prompt: LayerPrompt) -> None:
        """Score and store a layer's prompt, right after its dense attention."""
        self._check_order(index)
        eviction, windows = self._windows(index, prompt)
        store.hold(prompt.keys, prompt.values)
        self.budgets = eviction.add_layer(windows)

    def _check_order(self, index: int) -> None:
        assert isinstance(self._step, PromptStep)
        expected = self._geometry.layer_indices[self._step.num_layers]
        if index != expected:
            raise changed(
                "model",
                "every full-attention layer to attend through transformers' attention interface, in order",
                f"layer {index} where layer {expected} was due",
            )
        self._step.num_layers += 1

    def take_prompts(self, stores: Mapping[int, LayerStore], prompts: Mapping[int, LayerPrompt]) -> None:
        """Score and store a recorded prompt in all layers at once, both by index."""
        windows = []
        for index, store in stores.items():
            eviction, layer = self._windows(index, prompts[index])
            store.hold(prompts[index].keys, prompts[index].values)
            windows.append(layer)
        self.budgets = eviction.add_all(windows)

    def _windows(self, index: int, prompt: LayerPrompt) -> tuple[Round, list[ScoringWindow | None]]:
        """The eviction under way, and what of a layer's prompt to score for each sequence."""
        step = self._step
        assert isinstance(step, PromptStep)
        assert step.eviction is not None
        windows: list[ScoringWindow | None] = []
        for row, plan in enumerate(step.eviction.plans):
            visible = None if plan.keeps_all else step.visible(prompt.mask, row, plan)
            windows.append(None if plan.keeps_all else prompt.window(row, plan, visible, index))
        return step.eviction, windows

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

    def masks(self, mask: Any, tail_length: int) -> Masks:
        """What the new queries see; see `AppendStep.masks`."""
        assert isinstance(self._step, AppendStep)
        return self._step.masks(mask, tail_length)
