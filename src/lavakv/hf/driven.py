"""What an enabled model calls on a `LavaCache`, forward by forward."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import Cache

from lavakv.errors import UnsupportedError
from lavakv.eviction.records import RankedLayer
from lavakv.eviction.round import Ranker
from lavakv.eviction.shares import SequencePlan
from lavakv.hf import continuation, memory
from lavakv.hf.checks import check_batch
from lavakv.hf.given_mask import check_brought_back
from lavakv.hf.held_prompt import is_due
from lavakv.hf.prompt import LayerPrompt, PromptStep
from lavakv.hf.replay import one_row, run_replay
from lavakv.hf.replay_checks import check_replay
from lavakv.hf.state import CacheState, Replayed
from lavakv.hf.step import AppendStep
from lavakv.hf.tail_watch import TailWatch
from lavakv.hf.versions import changed
from lavakv.policy.rules import Need
from lavakv.scoring.prompt import ReplayMaxima


class CacheMark(NamedTuple):
    """A point in a cache's life.

    Attributes:
        num_columns: columns seen.
        others: copies of the layers that are not compressed, by index.
    """

    num_columns: int
    others: dict[int, Any]


class DrivenCache(Cache):
    """The part of a `LavaCache` that hooks, layers, `generate`'s guard and recordings drive; not for users."""

    _state: CacheState
    _watch: TailWatch | None
    _announced: int
    _reserved: int
    _itemsize: int
    _num_new: int

    @property
    @abstractmethod
    def layer_indices(self) -> tuple[int, ...]:
        """The model's layers that are compressed."""

    @property
    @abstractmethod
    def batch_size(self) -> int:
        """Sequences the cache holds."""

    @property
    @abstractmethod
    def is_recording(self) -> bool:
        """Whether tokens to come may be taken back."""

    @property
    @abstractmethod
    def _needs_itemsize(self) -> bool:
        """Whether budgets are in bytes, so that the dtype of keys and values must be known first."""

    @abstractmethod
    def _needs(self, need: Need) -> bool:
        """Whether a policy of this cache needs something."""

    @abstractmethod
    def _plan(self, real: Tensor, itemsize: int = 0, ranker: Ranker = RankedLayer.of) -> None:
        """Work out what each sequence of a prompt may keep."""

    @abstractmethod
    def _note_decided(self, tokens: Sequence[int]) -> None:
        """Remember the budgets of the last round, given the tokens of each sequence; they may have been open before."""

    @property
    @abstractmethod
    def _may_be_chunk(self) -> bool:
        """Whether the forward under way may bring only the first part of a prompt."""

    @abstractmethod
    def _after_forward(self, was_prompt: bool, num_columns: int) -> None:
        """Do what is due after a forward that succeeded and brought so many columns."""

    @abstractmethod
    def _check_round_to_come(self, num_columns: int) -> None:
        """Check, before a forward that brings so many columns, what can be known of the round that is due after it."""

    @abstractmethod
    def _apply_reservation(self) -> None:
        """Reserve capacity for the new tokens that were announced."""

    def take_recorded(
        self, prompts: Mapping[int, LayerPrompt], others: Mapping[int, Any], ranker: Ranker, replayed: Replayed
    ) -> None:
        """Take a recorded prompt in place of a forward (called by `Recording.fill`).

        Args:
            prompts: compressed layers by index.
            others: the layers that are not compressed, by index; taken over as they are.
            ranker: what ranks a layer's entries.
            replayed: what a replay of the prompt gives.
        """
        step = self._state.announced_step()
        assert isinstance(step, PromptStep)
        self._itemsize = next(iter(prompts.values())).keys.itemsize
        self._plan(step.real, self._itemsize, ranker)
        self._state.take_prompts(prompts, replayed)
        self._note_decided(self._state.num_tokens)
        self._watch = None  # who fills a cache from a recording sends it what comes next on purpose
        for index in self.layer_indices:
            self.layers[index].num_columns = step.real.shape[1]
        for index, layer in others.items():
            self.layers[index] = layer
        self._apply_reservation()

    def mark(self) -> CacheMark:
        """A point to come back to by `rewind`: what the layers that are not compressed hold now is copied."""
        others = {index: layer for index, layer in enumerate(self.layers) if index not in self.layer_indices}
        return CacheMark(self._state.session.columns.length, copy.deepcopy(others))

    def rewind(self, mark: CacheMark) -> None:
        """Forget all tokens that came after a mark, which is used up.

        Raises:
            CacheStateError: the cache's last forward failed.
        """
        session = self._state.session
        session.truncate(session.columns.length - mark.num_columns)
        for index in self.layer_indices:
            self.layers[index].num_columns = mark.num_columns
        for index, layer in mark.others.items():
            self.layers[index] = layer

    @property
    def can_select(self) -> bool:
        """Whether `select` can serve: layers that are not compressed may offer no way to it."""
        return all(hasattr(layer, "reorder_cache") for layer in self.layers)

    def begin(self, model: nn.Module, inputs: Tensor, mask: Any, position_ids: Tensor | None = None) -> None:
        """Start a forward (called by an enabled model); see `CacheState.begin`."""
        if self._watch is not None and inputs.shape[1] > 1 and not self.is_recording:  # first: it may be made an error
            announced = max(self._announced, self._reserved)
            self._watch.check(self._state.session.columns.length + inputs.shape[1], announced)
        self._num_new, before = inputs.shape[1], self._state.session.columns.brought_back
        self._state.begin(model, inputs, mask, position_ids, self._may_be_chunk)
        if isinstance(self._state.step, AppendStep):
            try:
                self._check_round_to_come(self._num_new)
            except BaseException:
                self._state.withdraw(self._num_new, before)
                raise
        if isinstance(self._state.step, PromptStep) and not self._needs_itemsize:
            try:
                self._plan(self._state.step.real)
            except BaseException:
                self.end(succeeded=False)
                raise

    def note_ids(self, input_ids: Tensor | None) -> None:
        """Ids that a model around the decoder was called with, so that a later turn can be compared with them."""
        self._state.noted_ids = input_ids

    def note_announced(self, max_new_tokens: int) -> None:
        """Tokens that a call of `generate` may add (called by an enabled model)."""
        self._announced += max_new_tokens

    def require_sound(self) -> None:
        """Raise CacheStateError where a forward stopped half-way."""
        self._state.session.require_sound()

    def check_continues(self, sent: Tensor, mask: Tensor | None, embed: Callable[[Tensor], Tensor]) -> None:
        """Check that a whole text begins with what the cache holds; see `continuation.check_continues`."""
        check_brought_back(self._state.session.columns.brought_back)
        check_batch(sent, self.batch_size)
        continuation.check_continues(self._state.session.columns, sent, mask, embed)

    def wants_attention_inputs(self) -> bool:
        """Whether a prompt is under way that a policy judges by what each layer's attention is given."""
        return isinstance(self._state.step, PromptStep) and self._needs("hidden_states")

    def note_attention_inputs(self, hidden_states: Tensor) -> None:
        """Note what the attention of a layer of the prompt's forward is given (called by an enabled model)."""
        step = self._state.step
        if isinstance(step, PromptStep):
            step.attention_inputs = hidden_states

    def note_hidden_states(self, hidden_states: Tensor) -> None:
        """Note what enters a layer of the forward under way (called by an enabled model)."""
        step = self._state.step
        if isinstance(step, PromptStep) or (step is not None and self._state.needs_norms):
            step.hidden_states = hidden_states

    def note_rotation(self, position_embeddings: Any) -> None:
        """Note by what a layer of the prompt's forward rotates its queries and keys (called by an enabled model)."""
        step = self._state.step
        if isinstance(step, PromptStep):
            step.position_embeddings = position_embeddings

    def end(self, succeeded: bool) -> None:
        """Close a forward (called by an enabled model). A failed prompt leaves the cache as it was, empty."""
        unused = [i for i in self.layer_indices if self.layers[i].num_columns != self._state.session.columns.length]
        if succeeded and not unused:
            self._finish_held()
        was_prompt = self._state.end(succeeded)
        if succeeded and unused:
            num_compressed = len(self.layer_indices)
            self.reset()
            raise _unused_layers(unused, num_compressed)
        if succeeded and torch.is_grad_enabled():
            memory.detach_states(self.layers)
        if succeeded and (was_prompt or (self._num_new > 1 and not self.is_recording)):
            memory.release_views(self.layers)
        if was_prompt and succeeded:
            self._apply_reservation()
        elif was_prompt:
            self.reset()
        if succeeded:
            self._after_forward(was_prompt, self._num_new)

    def _check_replay(self, plans: Sequence[SequencePlan]) -> None:
        """Check that the prompt under way can be replayed where a policy needs that; see `check_replay`."""
        step, positions = self._state.step, self._state.max_positions
        if isinstance(step, PromptStep):
            check_replay(plans, step.inputs, self._state.decoder.config, positions, self.layers)

    def _finish_held(self) -> None:
        """Score and store a prompt that was held, after its replay if one is due; a failure leaves the cache empty."""
        held, step = self._state.held, self._state.step
        if held is None or not isinstance(step, PromptStep):
            return
        try:
            memory.release_views(self.layers)
            own = [index for index in range(len(self.layers)) if index not in self.layer_indices]
            found: list[Mapping[int, ReplayMaxima] | None] = []
            for row, plan in enumerate(held.plans):
                if not is_due(plan):
                    found.append(None)
                    continue
                others = {index: one_row(self.layers[index], row, len(held.plans)) for index in own}
                state = held.state(row, step, others)
                found.append(run_replay(self._state.decoder, state, plan.policy.replay))
            self._state.session.take_all(held.layers(found))
            self._note_decided(self._state.num_tokens)
        except BaseException:
            self._state.end(succeeded=False)
            self.reset()
            raise

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> Any:
        """Take one layer's new keys and values; see `LavaLayer.update`.

        Raises:
            NotEnabledError: the model is not enabled; the cache is unchanged.
        """
        refuse_compiling()
        step, self._itemsize = self._state.announced_step(), key_states.itemsize
        if isinstance(step, PromptStep) and self._state.session.plans is None:
            self._plan(step.real, self._itemsize)  # a budget in bytes waits for the first keys
        return super().update(key_states, value_states, layer_idx, *args, **kwargs)

    def update_conv_state(self, *args: Any, **kwargs: Any) -> Any:
        """As in any cache, but only for an enabled model, like `update`."""
        self._state.announced_step()
        return super().update_conv_state(*args, **kwargs)

    def update_recurrent_state(self, *args: Any, **kwargs: Any) -> Any:
        """As in any cache, but only for an enabled model, like `update`."""
        self._state.announced_step()
        return super().update_recurrent_state(*args, **kwargs)


def _unused_layers(unused: Sequence[int], num_compressed: int) -> UnsupportedError:
    """The error for a forward after which layers do not hold what the model read; the cache is reset."""
    if len(unused) == num_compressed:
        return UnsupportedError(
            "model", expected="layers that use the cache", got="a forward in which none did; the cache is reset",
            fix="Turn gradient checkpointing off, or call `model.eval()`.",
        )  # fmt: skip
    return changed(
        "model",
        "every full-attention layer to attend through transformers' attention interface",
        f"a forward in which the layers {', '.join(map(str, unused))} did not; the cache is reset",
    )


def refuse_compiling() -> None:
    """Raise UnsupportedError while `torch.compile` traces: a cache's ragged stores cannot be part of a graph."""
    if torch.compiler.is_compiling():
        raise UnsupportedError(
            "torch.compile", expected="a forward that is not compiled", got="a compiled one with a LavaCache",
            fix="Call the model uncompiled with a LavaCache; on a GPU, `generate(compile_config=...)` compiles its "
            "layers inside the decode graph.",
        )  # fmt: skip
