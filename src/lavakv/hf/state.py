"""What transformers adds to a session: the model and its geometry, masks, and the forward under way."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lavakv.errors import CacheMismatchError, UnsupportedError
from lavakv.eviction.round import Windows
from lavakv.eviction.session import Phase, Session
from lavakv.hf.checks import check_batch, check_inputs, check_model, not_announced
from lavakv.hf.continuation import tokens_of
from lavakv.hf.geometry import Geometry
from lavakv.hf.given_mask import real_columns, shows_padding
from lavakv.hf.held_prompt import HeldPrompt, due_replays, is_due, waits_for_end, with_replays
from lavakv.hf.projection import ProjectionSource
from lavakv.hf.prompt import LayerPrompt, PromptStep
from lavakv.hf.step import AppendStep
from lavakv.hf.versions import changed
from lavakv.policy.replay import Replay
from lavakv.scoring.prompt import ReplayMaxima
from lavakv.scoring.window import ScoringWindow

Replayed = Callable[[Replay], Mapping[int, ReplayMaxima]]


class CacheState:
    """Shared by a cache and its layers; an enabled model drives it through `begin`, the layers, `end`.

    Attributes:
        session: phases, columns, stores and budgets.
        step: the forward under way, or None.
        held: the prompt under way, where all of it has to be at hand before anything is evicted, or None.
        projections: where each layer's output projection is found, by index.
        kv_dtype: of the keys that are held, or None while that is not known.
        needs_norms: whether a policy reads norms of the residual stream, so that later rounds need them as well.
        noted_ids: `[B, q]`, the ids that the model around the decoder was called with, or None.
    """

    def __init__(self, geometry: Geometry, session: Session) -> None:
        self._geometry, self.session = geometry, session
        self.step: PromptStep | AppendStep | None = None
        self.noted_ids: Tensor | None = None
        self.projections: dict[int, ProjectionSource] = {}
        self.kv_dtype: torch.dtype | None = None
        self.needs_norms = False
        self._model: weakref.ref[nn.Module] | None = None
        self._dtype: Any = None
        self.held: HeldPrompt | None = None

    def begin(
        self,
        model: nn.Module,
        inputs: Tensor,
        mask: Any,
        position_ids: Tensor | None = None,
        is_chunk: bool = False,
    ) -> None:
        """Start a forward of `model`.

        Args:
            model: the decoder.
            inputs: ids `[B, q]` or embeddings `[B, q, hidden]`.
            mask: its `attention_mask`.
            position_ids: its positions, if it was given any.
            is_chunk: whether more of the prompt may come, so that a sequence may have only padding so far.

        Raises:
            LavaError: whatever can be found wrong before a layer runs; the cache is unchanged.
        """
        session = self.session
        session.require_sound()
        columns, is_prompt = session.columns, session.phase is Phase.EMPTY
        self.check_met(model, filled=not is_prompt)
        check_batch(inputs, session.batch)
        real = real_columns(mask, inputs.shape[0], inputs.shape[1], columns.length, inputs.device)
        seen = None if is_prompt else columns.real
        check_inputs(inputs, real, seen, self._geometry.max_positions, is_chunk)
        brought_back = None if seen is None else shows_padding(mask, seen[:, : session.tail_start])
        noted, self.noted_ids = self.noted_ids, None
        ids = noted if noted is not None and noted.shape == inputs.shape[:2] else inputs
        session.begin(real, mask is None, tokens_of(ids).to(inputs.device))
        columns.note_brought_back(brought_back)
        if is_prompt:
            self.step = PromptStep(real, inputs, position_ids)
        else:
            self.step = AppendStep(inputs.shape[1], columns, mask is not None)
        self.meet(model, filled=not is_prompt)

    def check_met(self, model: nn.Module, filled: bool) -> None:
        """Raise CacheMismatchError where this decoder is not the one that the cache was filled by, or made for."""
        check_model(self._geometry, model, self._model, filled)
        if self._dtype is not None and getattr(model, "dtype", self._dtype) != self._dtype and filled:
            raise _another_dtype(self._dtype, model.dtype)

    def meet(self, model: nn.Module, filled: bool) -> None:
        """Note the decoder whose forward is under way, after `check_met`."""
        if not filled or self._dtype is None:
            self._dtype = getattr(model, "dtype", None)
        self._model = weakref.ref(model)

    @property
    def max_positions(self) -> int | None:
        """Tokens that the model's positions reach, or None."""
        return self._geometry.max_positions

    @property
    def num_tokens(self) -> list[int]:
        """Real tokens of each sequence of the prompt under way."""
        return [plan.num_tokens for plan in self.session.plans or ()]

    @property
    def decoder(self) -> nn.Module:
        """The model whose forward is under way, or that filled the cache."""
        decoder = None if self._model is None else self._model()
        assert decoder is not None
        return decoder

    def end(self, succeeded: bool) -> bool:
        """Close the forward. Returns whether it was one that brought the prompt."""
        step, self.step, self.held = self.step, None, None
        self.session.end(succeeded)
        return isinstance(step, PromptStep)

    def withdraw(self, num_columns: int, brought_back: Tensor | None) -> None:
        """Undo `begin` of a forward on a filled cache, before a layer has run; `brought_back` is as it was before."""
        self.step = None
        self.session.withdraw(num_columns)
        self.session.columns.brought_back = brought_back

    def __getstate__(self) -> dict[str, Any]:
        """All but the model that filled the cache: a copy in another process meets another object of it."""
        return {**self.__dict__, "_model": None, "projections": {}}

    def filled_by(self, other: CacheState) -> None:
        """Let the model that filled another state be the one that filled this copy of it."""
        self._model, self.projections = other._model, dict(other.projections)

    def announced_step(self) -> PromptStep | AppendStep:
        """The forward under way.

        Raises:
            NotEnabledError: no enabled model started one.
            CacheStateError: a failed forward cut this one short.
        """
        if self.step is None:
            self.session.require_sound()
            raise not_announced()
        return self.step

    def take_prompt(self, index: int, prompt: LayerPrompt) -> None:
        """Score and store a layer's prompt, right after its dense attention."""
        plans = self.session.plans
        assert plans is not None
        if self.held is None and any(map(waits_for_end, plans)):
            self.held = HeldPrompt(plans)
        expected = self._geometry.layer_indices[self.session.num_taken if self.held is None else len(self.held)]
        if index != expected:
            raise changed(
                "model",
                "every full-attention layer to attend through transformers' attention interface, in order",
                f"layer {index} where layer {expected} was due",
            )
        self._note_queries(index, prompt)
        self.kv_dtype = prompt.keys.dtype
        windows = self._windows(index, prompt)
        if self.held is None:
            self.session.take(prompt.keys, prompt.values, windows)
        else:
            self.held.take(index, prompt, windows)

    def take_prompts(self, prompts: Mapping[int, LayerPrompt], replayed: Replayed) -> None:
        """Score and store a recorded prompt in all layers at once.

        Args:
            prompts: by index.
            replayed: what a replay of the prompt gives, by index.
        """
        plans = self.session.plans
        assert plans is not None
        found = {replay: replayed(replay) for replay in due_replays(plans)}

        def layer(index: int, one: LayerPrompt) -> tuple[Tensor, Tensor, Windows]:
            self._note_queries(index, one)
            maxima = [found[plan.policy.replay][index] if is_due(plan) else None for plan in plans]
            return one.keys, one.values, with_replays(self._windows(index, one), maxima)

        self.session.take_all(layer(index, prompts[index]) for index in self._geometry.layer_indices)

    def _note_queries(self, index: int, prompt: LayerPrompt) -> None:
        """Remember the last queries of a prompt's layer for later rounds."""
        norms = None
        if self.needs_norms:
            first = max(prompt.queries.shape[2] - self.session.log.window, 0)
            rows = [prompt.stream_norms(row, first) for row in range(prompt.queries.shape[0])]
            known = [row for row in rows if row is not None]
            norms = torch.stack(known) if len(known) == len(rows) else None
        self.session.log.note(index, prompt.queries, prompt.settings, norms)

    def _windows(self, index: int, prompt: LayerPrompt) -> list[ScoringWindow | None]:
        """What of a layer's prompt to score for each sequence."""
        step, plans = self.step, self.session.plans
        assert isinstance(step, PromptStep)
        assert plans is not None
        windows: list[ScoringWindow | None] = []
        for row, plan in enumerate(plans):
            visible = None if plan.keeps_all else step.visible(prompt.mask, row, plan)
            windows.append(None if plan.keeps_all else prompt.window(row, plan, visible, index, step.totals[row]))
        return windows

    def check_dtype(self, keys: Tensor) -> None:
        """Raise CacheMismatchError where new keys have another dtype than those that are held."""
        if self.kv_dtype is None:
            self.kv_dtype = keys.dtype
        elif keys.dtype != self.kv_dtype:
            raise _another_dtype(self.kv_dtype, keys.dtype)

    def check_layer(self, index: int, keys: Tensor) -> None:
        """Raise UnsupportedError where a layer has other KV heads than its configuration says."""
        expected = self._geometry.num_heads[self._geometry.layer_indices.index(index)]
        if keys.shape[1] != expected:  # budgets over all layers would be wrong
            raise UnsupportedError(
                f"model layer {index}", expected=f"{expected} KV heads, as its config says", got=f"{keys.shape[1]}",
                fix="This architecture is not supported.",
            )  # fmt: skip


def _another_dtype(held: Any, got: Any) -> CacheMismatchError:
    return CacheMismatchError(
        "cache", expected=f"the dtype of the model that filled it, {held}", got=str(got),
        fix="Make a new LavaCache for a model in another dtype, or load it in this one from the start.",
    )  # fmt: skip
