"""What a `LavaCache` is to its model while a decode step is captured: nothing is counted on the host."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from transformers import Cache

from lavakv.hf import interface
from lavakv.hf.cache import LavaCache
from lavakv.hf.graph.static_layers import StaticSliding
from lavakv.hf.graph.static_step import StaticStep
from lavakv.hf.masks import StaticColumns


class CapturingCache(LavaCache):
    """The class of a cache while its model's forward runs as a static step; `capturing` sets it and takes it back."""

    static_step: StaticStep

    def begin(self, model: nn.Module, inputs: Tensor, mask: Any, position_ids: Tensor | None = None) -> None:
        """The step has begun already, on the device; a cache that was loaded or copied has not met its model yet."""
        self._state.check_met(model, filled=True)
        self._state.meet(model, filled=True)

    def end(self, succeeded: bool) -> None:
        """It is ended on the device."""

    def note_ids(self, input_ids: Tensor | None) -> None:
        """The step has them."""

    def note_hidden_states(self, hidden_states: Tensor) -> None:
        """See `DrivenCache.note_hidden_states`."""
        if self._state.needs_norms:
            self.static_step.hidden_states = hidden_states

    def note_rotation(self, position_embeddings: Any) -> None:
        """Only prompts need it."""

    def wants_attention_inputs(self) -> bool:
        """Only prompts do."""
        return False

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> Any:
        """Take one layer's new keys and values."""
        return self.static_step.layers[layer_idx].update(key_states, value_states)

    def update_conv_state(self, *args: Any, **kwargs: Any) -> Any:
        """As transformers does, in place."""
        return Cache.update_conv_state(self, *args, **kwargs)

    def update_recurrent_state(self, *args: Any, **kwargs: Any) -> Any:
        """As transformers does, in place."""
        return Cache.update_recurrent_state(self, *args, **kwargs)

    def get_seq_length(self, layer_idx: int = 0) -> Any:
        """Columns before the step, int64 `[]` on the device, as transformers' static caches say it."""
        return self.static_step.seen

    def get_query_offset(self, layer_idx: int = 0) -> Any:
        """The same."""
        return self.static_step.seen

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """A length that lets the mask function ask the step."""
        step, layer = self.static_step, self.static_step.layers[layer_idx]
        if isinstance(layer, StaticSliding):
            return StaticColumns.of(layer.window, step.sliding_mask), 0
        return StaticColumns.of(1, step.full_mask), 0


@contextmanager
def capturing(cache: LavaCache, step: StaticStep) -> Iterator[None]:
    """Let a cache work as one whose decode step is captured."""
    cache.__class__ = CapturingCache
    cache.__dict__["static_step"] = step
    try:
        yield
    except BaseException:
        interface.forget(id(cache))  # no hook runs after an interrupt from the keyboard
        raise
    finally:
        cache.__class__ = LavaCache
        del cache.__dict__["static_step"]
