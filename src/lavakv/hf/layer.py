"""The cache layer that transformers sees in place of a `DynamicLayer`."""

from __future__ import annotations

import weakref
from typing import Any, NoReturn

from torch import Tensor, nn
from transformers.cache_utils import CacheLayerMixin, LinearAttentionLayer

from lavakv.attention import AttentionRequest, AttentionSettings
from lavakv.errors import HiddenTensorError, UnsupportedError
from lavakv.hf.croppable import crop_recurrent_part
from lavakv.hf.masks import SeenColumns
from lavakv.hf.operations import LayerOperations
from lavakv.hf.projection import ProjectionSource
from lavakv.hf.prompt import LayerPrompt, PromptStep
from lavakv.hf.rotation import LayerRotation
from lavakv.hf.state import CacheState
from lavakv.hf.step import AppendStep
from lavakv.hf.versions import changed
from lavakv.scoring.output_norm import norm_behind
from lavakv.store.base import LayerStore


class PendingKeyValues:
    """New keys and values on their way from a cache layer to lavakv's attention function.

    A model hands on what `update` returns without looking. Anything else that touches it is an attention function that
    does not know lavakv, so every use but ours is an error: failing is better than answering wrongly.
    """

    def __init__(self, layer: LavaLayer, keys: Tensor, values: Tensor) -> None:
        self.layer, self.keys, self.values = layer, keys, values

    def __getattr__(self, name: str) -> NoReturn:
        raise _not_ours(f"code that reads `.{name}` of the cache's keys or values")

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> NoReturn:
        raise _not_ours(f"code that calls `{getattr(func, '__name__', func)}` on the cache's keys or values")


def _not_ours(got: str) -> UnsupportedError:
    return changed(
        "the model's attention",
        expected="keys and values to go from the cache to transformers' attention interface unread",
        got=got,
    )


class _Hidden:
    """`keys` and `values` of a compressed layer: no rectangle of them exists."""

    def __get__(self, layer: Any, owner: Any = None) -> Any:
        if layer is None:
            return self
        raise HiddenTensorError(
            "keys and values of a cache layer",
            expected="no code that reads them as one tensor: each head holds its own survivors",
            got="a look at them",
            fix="`cache.kept_positions(layer, batch, head)` says what a head holds, `cache.layers[i].store` has it.",
        )

    def __set__(self, layer: Any, value: Any) -> None:
        if value is not None:  # transformers sets None when it makes a layer
            self.__get__(layer)


class LavaLayer(LayerOperations, CacheLayerMixin):
    """A full-attention layer of a `LavaCache`; its keys and values live in its store."""

    is_sliding = False
    is_compileable = False
    is_croppable = True
    record_past = False

    keys = _Hidden()
    values = _Hidden()

    def __init__(self, index: int, store: LayerStore, state: CacheState, shares_masks: bool) -> None:
        super().__init__()
        self.index = index
        self.store = store
        self.num_columns = 0
        self._state = state
        self._shares_masks = shares_masks

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to prepare: the store takes the prompt as it comes."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[PendingKeyValues, PendingKeyValues]:
        """Hand the new keys and values to lavakv's attention function; the store changes only there."""
        if not self.num_columns:
            self._state.check_layer(self.index, key_states)
        pending = PendingKeyValues(self, key_states, value_states)
        return pending, pending

    def hidden_states(self) -> Tensor | None:
        """The residual stream that entered the layer under way, `[B, columns, hidden]`, once; None if not seen."""
        assert isinstance(self._state.step, PromptStep)
        return self._state.step.pop_hidden_states()

    def rotation(self, attention: nn.Module) -> LayerRotation | None:
        """How the layer under way, whose attention is given, rotates queries and keys, once; None if not seen."""
        assert isinstance(self._state.step, PromptStep)
        embeddings = self._state.step.pop_position_embeddings()
        if embeddings is None:
            return None
        return LayerRotation(embeddings, attention, self._state.decoder, self.index)

    def norm_behind(self, attention: nn.Module) -> nn.Module | None:
        """The norm between this layer's output projection and the residual stream, or None."""
        return norm_behind(self._state.decoder, attention)

    def attention_inputs(self) -> Tensor | None:
        """What the attention of the layer under way was given, `[B, columns, hidden]`, once; None if not seen."""
        assert isinstance(self._state.step, PromptStep)
        return self._state.step.pop_attention_inputs()

    def note_attention(self, attention: nn.Module, num_query_heads: int, values: Tensor) -> None:
        """Note which module attends, whose output projection a later round may need."""
        known = self._state.projections.get(self.index)
        if known is None or known.module() is not attention:
            source = (weakref.ref(attention), num_query_heads, values.shape[-1], values.dtype, values.device)
            norm = self.norm_behind(attention)
            self._state.projections[self.index] = ProjectionSource(*source, None if norm is None else weakref.ref(norm))

    def take_prompt(self, prompt: LayerPrompt) -> None:
        """Score, rank and store the prompt, right after its dense attention."""
        self._state.take_prompt(self.index, prompt)
        self.num_columns = prompt.keys.shape[2]

    def append(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Any, settings: AttentionSettings) -> Tensor:
        """Store new tokens and attend with their queries to all that is held, `[B, query_heads, q, value_dim]`."""
        step = self._state.step
        assert isinstance(step, AppendStep)
        self._state.check_dtype(keys)
        self.store.append(keys, values)
        self.num_columns += keys.shape[2]
        tail, past = step.masks(mask, self.store.tail_length, keys.device)
        output = step.attention.attend(self.store, AttentionRequest(queries, settings, tail, past))
        self._state.session.log.note(self.index, queries, settings, self.stream_norms(step.pop_norms(), output))
        return output

    def stream_norms(self, norms: Tensor | None, output: Tensor) -> Tensor | None:
        """Norms `[B, q]` of the stream, times the output's root mean square where a norm stands behind it."""
        if norms is None:
            return None
        rms = self._state.projections[self.index].output_rms(output.transpose(1, 2))
        return norms if rms is None else norms * rms

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of the mask: all columns seen and new."""
        length = self.num_columns + query_length
        return length if self._shares_masks else SeenColumns(length), 0

    def get_seq_length(self) -> int:
        """All columns seen, evicted ones and padding too."""
        return self.num_columns

    def get_max_length(self) -> int:
        """No maximum."""
        return -1


class LavaLinearLayer(LinearAttentionLayer, LavaLayer):
    """A compressed layer that also has the recurrent state of a linear attention beside it (Falcon-H1, Zamba 2)."""

    is_sliding = False
    is_compileable = False

    offload = LavaLayer.offload
    prefetch = LavaLayer.prefetch
    reset = LavaLayer.reset
    reorder_cache = LavaLayer.reorder_cache
    crop = LavaLayer.crop

    def __init__(self, stock: Any, *args: Any) -> None:
        LavaLayer.__init__(self, *args)
        for name, value in vars(stock).items():  # the recurrent part as transformers made it
            if name not in ("keys", "values"):
                setattr(self, name, value)

    def move_states(self, indices: Tensor) -> None:
        """Move the recurrent states."""
        LinearAttentionLayer.reorder_cache(self, indices)

    def crop_rest(self, num_columns: int) -> None:
        """Take back what convolutions recorded, and count."""
        LavaLayer.crop_rest(self, num_columns)
        crop_recurrent_part(self, num_columns)

    def lazy_initialization(self, *args: Any, **kwargs: Any) -> None:
        """Prepare recurrent states; the store takes keys and values as they come."""
        if kwargs:
            LinearAttentionLayer.lazy_initialization(self, **kwargs)
