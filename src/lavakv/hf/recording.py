"""One dense prefill, recorded: any number of caches can be filled from it without reading the prompt again."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lavakv.errors import UnsupportedError
from lavakv.eviction.records import RankedLayer
from lavakv.eviction.shares import SequencePlan
from lavakv.hf.cache import LavaCache
from lavakv.hf.held_prompt import PromptState
from lavakv.hf.prompt import LayerPrompt
from lavakv.hf.replay import run_replay
from lavakv.policy.apply import ScoredLayer, score_layer
from lavakv.policy.replay import Replay
from lavakv.policy.rules import Policy
from lavakv.scoring.blocks import MAX_BLOCK_ELEMENTS
from lavakv.scoring.prompt import ReplayMaxima, RowTotals
from lavakv.scoring.window import ScoringWindow

_MAX_BLOCK_ELEMENTS = (
    4 * MAX_BLOCK_ELEMENTS
)  # attention up to this size stays for the next policy; the queries, kept too, are larger


@dataclass(frozen=True)
class RecordedPrompt(LayerPrompt):
    """A layer's prompt of one sequence that remembers the windows cut from it, with all that was computed on them.

    Attributes:
        norms: float32 `[columns]`, of the residual stream, in place of the hidden states, or None.
        windows: by their size.
        totals: what scores sum over the prompt's layers, which share it.
        read_inputs: gives what the attention was given, `[columns, hidden]`; reads the prompt again at first.
    """

    norms: Tensor | None = None
    windows: dict[int, ScoringWindow] = field(default_factory=dict)
    totals: RowTotals = field(default_factory=RowTotals)
    read_inputs: Callable[[], Tensor | None] | None = None

    @classmethod
    def of(cls, prompt: LayerPrompt) -> RecordedPrompt:
        """Take a layer's prompt over, all but the hidden states."""
        parts = {name: getattr(prompt, name) for name in LayerPrompt.__dataclass_fields__}
        return cls(**{**parts, "hidden_states": None, "attention_inputs": None}, norms=prompt.residual_norms(0, 0))

    def residual_norms(self, sequence: int, first: int) -> Tensor | None:
        """See `LayerPrompt.residual_norms`."""
        return None if self.norms is None else self.norms[first:]

    def window(
        self, sequence: int, plan: SequencePlan, visible: Tensor | None, layer: int, totals: RowTotals | None = None
    ) -> ScoringWindow:
        """See `LayerPrompt.window`; attention, norms and totals are computed once for all policies and budgets."""
        if plan.window not in self.windows:
            window = super().window(sequence, plan, visible, layer, self.totals)
            window = replace(window, output_weight=None, rotation=None, hidden_states=None, output_scale=None)
            self.windows[plan.window] = replace(window, max_block_elements=_MAX_BLOCK_ELEMENTS)
        weight, rotation = self.output_weight(plan, layer), self.rotation_of(sequence, plan, layer)
        scale = self.output_scale(sequence, plan, layer)
        window = self.windows[plan.window].with_needs(plan.scored_for, weight, rotation, plan.protected, scale)
        return window.with_hidden_states(self.inputs_of(sequence, plan))

    def inputs_of(self, sequence: int, plan: SequencePlan) -> Tensor | None:
        """See `LayerPrompt.inputs_of`; nothing is kept of them that no policy needs."""
        if self.read_inputs is None or "hidden_states" not in plan.policy.needs:
            return None
        inputs = self.read_inputs()
        return None if inputs is None else inputs[: self.keys.shape[2]]

    def prefix(self, num_tokens: int) -> RecordedPrompt:
        """The first columns alone; nothing is copied."""
        parts = {name: getattr(self, name)[:, :, :num_tokens] for name in ("queries", "keys", "values")}
        mask = (
            self.mask[:, :, :num_tokens, :num_tokens] if isinstance(self.mask, Tensor) and self.mask.ndim == 4 else None
        )
        norms = None if self.norms is None else self.norms[:num_tokens]
        outputs = None if self.outputs is None else self.outputs[:, :num_tokens]
        return replace(self, **parts, mask=mask, norms=norms, outputs=outputs, windows={})

    def in_rows(self, count: int) -> RecordedPrompt:
        """The same prompt as a batch of `count` equal sequences; nothing is copied, windows are shared."""
        parts = {name: getattr(self, name) for name in ("queries", "keys", "values")}
        if self.outputs is not None:
            parts["outputs"] = self.outputs
        return replace(self, **{name: part.expand(count, -1, -1, -1) for name, part in parts.items()})


class Replayed(NamedTuple):
    """What a replay of a recorded prompt gave.

    Attributes:
        layers: maxima by index of the layer.
        seconds: what it took.
    """

    layers: dict[int, ReplayMaxima]
    seconds: float


class Recording(NamedTuple):
    """A prompt that a model has read once.

    Attributes:
        decoder: the module whose forward was recorded.
        inputs: token ids `[1, columns]`.
        layers: compressed layers by their index in the model.
        other_layers: cache layers that are not compressed, by index.
        next_logits: `[vocabulary]`, what the model expects after the prompt.
        seconds: what the prefill took.
        scored: scores worked out so far.
        ranked: rankings worked out so far.
        replays: replays run so far, by their settings.
    """

    decoder: nn.Module
    inputs: Tensor
    layers: dict[int, RecordedPrompt]
    other_layers: dict[int, Any]
    next_logits: Tensor
    seconds: float
    scored: dict[Hashable, ScoredLayer]
    ranked: dict[Hashable, RankedLayer]
    replays: dict[Replay, Replayed]

    def prefix(self, num_tokens: int) -> Recording:
        """The first tokens alone, as if nothing had followed them; what the model expects after them is not known.

        Raises:
            UnsupportedError: layers whose state at that point is gone (sliding windows, recurrent ones), or flex masks.
        """
        if self.other_layers or self._has_block_masks:
            raise UnsupportedError(
                "recording", expected="full-attention layers only, without flex attention",
                got="sliding or recurrent ones, or flex attention", fix="Record the context alone.",
            )  # fmt: skip
        layers = {index: prompt.prefix(num_tokens) for index, prompt in self.layers.items()}
        return self._replace(inputs=self.inputs[:, :num_tokens])._recomputing(layers)

    def without_results(self) -> Recording:
        """The same prompt, with nothing computed on it yet: the next fill takes as long as a first one."""
        return self._recomputing({index: replace(prompt, windows={}) for index, prompt in self.layers.items()})

    def _recomputing(self, layers: dict[int, RecordedPrompt]) -> Recording:
        """With these layers, and with nothing that was computed on the earlier ones."""
        totals = RowTotals()
        layers = {index: replace(prompt, totals=totals) for index, prompt in layers.items()}
        return self._replace(layers=layers, scored={}, ranked={}, replays={})

    @property
    def can_repeat(self) -> bool:
        """Can the prompt be a batch of several rows? Recurrent states and flex masks offer no way to repeat them."""
        repeatable = all(hasattr(layer, "batch_repeat_interleave") for layer in self.other_layers.values())
        return repeatable and not self._has_block_masks

    @property
    def _has_block_masks(self) -> bool:
        return any(hasattr(prompt.mask, "mask_mod") for prompt in self.layers.values())

    def fill(self, cache: LavaCache, num_rows: int = 1) -> LavaCache:
        """Let an empty cache take the prompt, as if it had been there when the model read it.

        Args:
            cache: an empty cache.
            num_rows: how many times the prompt stands in the batch; more than once only if `can_repeat`.

        Raises:
            LavaError: as a forward of the model would; the cache is unchanged.
        """
        layers, others = self.layers, copy.deepcopy(self.other_layers)
        if num_rows > 1:
            layers = {index: prompt.in_rows(num_rows) for index, prompt in layers.items()}
            for layer in others.values():
                layer.batch_repeat_interleave(num_rows)
        cache.begin(self.decoder, self.inputs.expand(num_rows, -1), None)
        try:
            cache.take_recorded(layers, others, self._rank, lambda replay: self.replayed(replay).layers)
        except BaseException:
            cache.end(succeeded=False)
            raise
        cache.end(succeeded=True)
        return cache

    @property
    def replay_seconds(self) -> float:
        """What all replays so far took."""
        return sum(replayed.seconds for replayed in self.replays.values())

    def replayed(self, replay: Replay) -> Replayed:
        """What a replay of the prompt gives; run once for all policies and budgets that need it."""
        if replay not in self.replays:
            start = time.perf_counter()
            held = {index: (prompt.keys, prompt.values) for index, prompt in self.layers.items()}
            tokens = self.inputs[0]
            state = PromptState(tokens, torch.ones_like(tokens, dtype=torch.bool), None, held, self.other_layers)
            found = run_replay(self.decoder, state, replay)
            self.replays[replay] = Replayed(found, time.perf_counter() - start)
        return self.replays[replay]

    def _rank(
        self, policy: Policy, window: ScoringWindow, min_entries_per_head: int, caps: Tensor | None = None
    ) -> RankedLayer:
        """`RankedLayer.of` a prompt, remembered by all that it depends on."""
        assert caps is None
        rule = policy.layer_rule if callable(policy.layer_rule) else policy.layer_rule == "entropy"
        budget = window.tokens_per_head if policy.scores_by_budget else None
        replay = policy.replay if "replay" in policy.needs else None
        key = (policy.score, rule, budget, replay, window.layer, window.queries.shape[2])
        if key not in self.scored:
            self.scored[key] = score_layer(policy, window)
        own = (*key, min_entries_per_head, window.protected)
        if own not in self.ranked:
            self.ranked[own] = RankedLayer.ranked(self.scored[key], window, min_entries_per_head)
        return self.ranked[own]
