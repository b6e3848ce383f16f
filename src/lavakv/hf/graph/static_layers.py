"""The layers of a cache while its decode step is captured: the same tensors at every step, and no host bookkeeping."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicSlidingWindowLayer, LinearAttentionLayer

from lavakv.attention import AttentionSettings
from lavakv.hf.graph.refusal import CannotCapture
from lavakv.hf.layer import LavaLayer, PendingKeyValues
from lavakv.hf.memory import STATELESS
from lavakv.store.growing import storing
from lavakv.store.quantised import QuantisedStore
from lavakv.store.ragged import RaggedStore

if TYPE_CHECKING:
    from lavakv.hf.graph.static_step import StaticStep


class StaticLayer:
    """One layer of a cache as a captured step uses it. This one holds nothing."""

    def fits(self) -> bool:
        """Whether the cache's layer still holds its contents where the captured step reads them."""
        return True

    def load(self) -> None:
        """Bring the step's own tensors to what the cache's layer holds now."""

    def save(self) -> None:
        """Remember what a trial run of the step changes in place."""

    def restore(self) -> None:
        """Undo a trial run."""

    def forget_saved(self) -> None:
        """Free what `save` copied."""

    def advance(self) -> None:
        """Count one more column on the host."""

    def update(self, keys: Tensor, values: Tensor) -> Any:
        """Take new keys and values `[B, H, 1, dim]`; returns what the model hands on to its attention."""
        raise CannotCapture("a layer without keys was given some")


class StaticRagged(StaticLayer):
    """A compressed layer. Stands in for its `LavaLayer` behind `PendingKeyValues`.

    Attributes:
        store: the layer's.
        is_recurrent: whether the layer has recurrent states beside its keys.
    """

    num_columns = 1  # what is attended to is held, not a prompt

    def __init__(self, layer: LavaLayer, step: StaticStep) -> None:
        assert isinstance(layer.store, RaggedStore)
        assert layer.store.tail is not None
        self._layer, self._step, self.store = layer, step, layer.store
        self._tail, self._past = layer.store.tail, layer.store.past
        self._buffers = self._tail.buffers
        self.is_recurrent = isinstance(layer, LinearAttentionLayer)
        self._recurrent = StaticRecurrent(layer) if self.is_recurrent else StaticLayer()

    @property
    def num_spare(self) -> int:
        """Columns that fit behind the tail."""
        return int(self._buffers[0].shape[2]) - self._tail.length

    def fits(self) -> bool:
        """Whether past and tail are where they were."""
        store, (keys, values) = self.store, self._buffers
        if store.past is not self._past or store.tail is not self._tail or self._layer.store is not store:
            return False
        now = self._tail.buffers
        return now[0] is keys and now[1] is values and self._recurrent.fits()

    def save(self) -> None:
        """See `StaticLayer`; what was written into the tail is written again."""
        self._recurrent.save()

    def restore(self) -> None:
        """See `StaticLayer`."""
        self._recurrent.restore()

    def forget_saved(self) -> None:
        """See `StaticLayer`."""
        self._recurrent.forget_saved()

    def advance(self) -> None:
        """Count a column that the step has written."""
        self.store.advance(1)
        self._layer.num_columns += 1

    def update(self, keys: Tensor, values: Tensor) -> Any:
        """See `LavaLayer.update`."""
        pending = PendingKeyValues(self, keys, values)  # type: ignore[arg-type]
        return pending, pending

    def note_attention(self, attention: nn.Module, num_query_heads: int, values: Tensor) -> None:
        """See `LavaLayer.note_attention`."""
        self._layer.note_attention(attention, num_query_heads, values)

    def append(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Any, settings: AttentionSettings) -> Tensor:
        """Write the new token at the step's column and attend to all that is held; see `LavaLayer.append`."""
        shown = mask if isinstance(mask, Tensor) and mask.ndim == 4 else None
        return self._step.append_and_attend(self._layer.index, self.store, keys, values, queries, settings, shown)


class StaticSliding(StaticLayer):
    """A sliding-window layer with all columns of its window allocated; the newest stand at the end.

    Attributes:
        window: columns that a token sees, its own included.
    """

    def __init__(self, layer: Any) -> None:
        self._layer, self.window = layer, layer.sliding_window
        self._size = self.window - 1
        self._keys, self._values = (self._allocated(part) for part in (layer.keys, layer.values))
        self._before: tuple[Tensor, Tensor] | None = None
        self._shown: tuple[Any, Any] = (None, None)

    def _allocated(self, part: Tensor) -> Tensor:
        with storing():
            return part.new_zeros(*part.shape[:2], self._size, part.shape[3])

    def fits(self) -> bool:
        """Whether the layer's shapes are those of the step; its contents can be loaded."""
        keys, values = self._layer.keys, self._layer.values
        pairs = ((keys, self._keys), (values, self._values))
        return all(
            (part.shape[0], part.shape[1], part.shape[3], part.dtype, part.device)
            == (own.shape[0], own.shape[1], own.shape[3], own.dtype, own.device)
            for part, own in pairs
        )

    def load(self) -> None:
        """Copy what the layer holds, unless that is a view of the step's own tensors."""
        if self._layer.keys is self._shown[0] and self._layer.values is self._shown[1]:
            return
        for part, own in ((self._layer.keys, self._keys), (self._layer.values, self._values)):
            kept = part[:, :, max(part.shape[2] - self._size, 0) :].clone()  # it may be a view of `own`
            own.zero_()[:, :, self._size - kept.shape[2] :].copy_(kept)
        self._show(min(self._layer.keys.shape[2], self._size))

    def save(self) -> None:
        """See `StaticLayer`."""
        self._before = self._keys.clone(), self._values.clone()

    def restore(self) -> None:
        """See `StaticLayer`."""
        assert self._before is not None
        self._keys.copy_(self._before[0])
        self._values.copy_(self._before[1])

    def forget_saved(self) -> None:
        """See `StaticLayer`."""
        self._before = None

    def update(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Move the window on by one column; returns `[B, H, window, dim]`, the new column last."""
        full_keys, full_values = torch.cat([self._keys, keys], 2), torch.cat([self._values, values], 2)
        self._keys.copy_(full_keys[:, :, 1:])
        self._values.copy_(full_values[:, :, 1:])
        return full_keys, full_values

    def advance(self) -> None:
        """Show the cache's layer what it holds now."""
        self._layer.cumulative_length += 1
        held = self._shown[0].shape[2]
        if held < self._size:
            self._show(held + 1)

    def _show(self, length: int) -> None:
        first = self._size - length
        self._shown = self._keys[:, :, first:], self._values[:, :, first:]
        self._layer.keys, self._layer.values = self._shown


class StaticRecurrent(StaticLayer):
    """A layer with recurrent states, which transformers changes in place."""

    def __init__(self, layer: Any) -> None:
        self._places = list(_places(layer))
        self._states = [owner[name] for owner, name in self._places]
        self._before: list[Tensor] = []

    def fits(self) -> bool:
        """Whether the states are the tensors they were."""
        return all(owner.get(name) is state for (owner, name), state in zip(self._places, self._states, strict=True))

    def save(self) -> None:
        """See `StaticLayer`."""
        self._before = [state.clone() for state in self._states]

    def restore(self) -> None:
        """See `StaticLayer`."""
        for (owner, name), state, before in zip(self._places, self._states, self._before, strict=True):
            state.copy_(before)
            owner[name] = state

    def forget_saved(self) -> None:
        """See `StaticLayer`."""
        self._before = []


def static_layer(number: int, layer: Any, step: StaticStep) -> StaticLayer:
    """What a captured step uses in place of a layer of a cache.

    Raises:
        CannotCapture: a layer whose step depends on the host.
    """
    if isinstance(layer, LavaLayer):
        if isinstance(layer.store, QuantisedStore):
            raise CannotCapture(f"with kv_bits={layer.store.kv_bits} the past is dequantised at every step")
        if type(layer.store) is not RaggedStore:
            raise CannotCapture(f"a {type(layer.store).__name__} has no static step")
        return StaticRagged(layer, step)
    if isinstance(layer, STATELESS):
        return StaticLayer()
    if type(layer) is DynamicSlidingWindowLayer and layer.is_initialized:
        return StaticSliding(layer)
    if type(layer) is LinearAttentionLayer:
        return StaticRecurrent(layer)
    raise CannotCapture(f"layer {number} is a {type(layer).__name__}, which grows on the host")


def _places(layer: Any) -> Iterator[tuple[dict[Any, Any], Any]]:
    """Where a layer keeps its convolution and recurrent states: dictionaries and keys."""
    for name in ("conv_states", "recurrent_states"):
        found = getattr(layer, name, None)
        owner = found if isinstance(found, dict) else layer.__dict__
        yield from (
            (owner, key)
            for key in (list(found) if isinstance(found, dict) else [name])
            if isinstance(owner[key], Tensor)
        )
