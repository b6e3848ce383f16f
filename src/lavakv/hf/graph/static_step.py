"""A decode step whose every input is a device tensor: what the forward of a captured model works on."""

from __future__ import annotations

from operator import is_
from typing import Any

import torch
from torch import Tensor
from transformers.masking_utils import causal_mask_function

from lavakv.attention import AttentionRequest, AttentionSettings
from lavakv.attention.static import append_and_attend
from lavakv.eviction.session import Session
from lavakv.hf.graph.refusal import CannotCapture
from lavakv.hf.graph.static_layers import StaticLayer, StaticRagged, static_layer
from lavakv.hf.graph.static_log import StaticLog
from lavakv.hf.step import NOTHING_HIDDEN, Masks, NotedStep
from lavakv.store.growing import storing
from lavakv.store.ragged import RaggedStore


class StaticStep(NotedStep):
    """One new token for every sequence of a cache, at a column that a device tensor holds.

    Args:
        layers: the cache's.
        session: the cache's.
        device: where all of it is.
        masked: whether the caller passes a mask of all columns.
        needs_norms: whether later rounds need norms of the residual stream.

    Attributes:
        layers: what is used in place of the cache's.
        length: int64 `[1]`, columns behind the past of every compressed layer.
        seen: int64 `[]`, columns before this step; valid inside a step.
        mask: bool `[B, columns]`, what of all columns that fit is shown, or None where nothing is hidden.
        log: the last queries.
    """

    def __init__(
        self, layers: list[Any], session: Session, device: torch.device, masked: bool, needs_norms: bool
    ) -> None:
        super().__init__()
        self.layers: list[StaticLayer] = [static_layer(number, layer, self) for number, layer in enumerate(layers)]
        self.ragged = [layer for layer in self.layers if isinstance(layer, StaticRagged)]
        self.device, self.masked, self._cache_layers = device, masked, list(layers)
        self._session, self._columns = session, session.columns
        self._buffers = self._columns.buffers
        self._tail_start = session.tail_start
        self._num_columns = self._tail_start + max(one.store.tail_capacity for one in self.ragged)
        with storing():
            self.length = torch.zeros(1, dtype=torch.int64, device=device)
            self._own_column = torch.zeros(1, dtype=torch.int64, device=device)
            self.seen = torch.zeros((), dtype=torch.int64, device=device)
            mask = torch.zeros(session.batch, self._num_columns, dtype=torch.bool, device=device)
            self.mask = mask if masked or self._columns.any_padding else None
            self._brought_back = torch.zeros((), dtype=torch.bool, device=device)
        self.log = StaticLog(session.log.window, needs_norms)

    @property
    def num_spare(self) -> int:
        """Further columns that fit where the step writes."""
        return min(self._buffers[0].shape[1] - self._columns.length, *(one.num_spare for one in self.ragged))

    def fits(self, layers: list[Any], session: Session) -> bool:
        """Whether a cache still holds everything where this step reads and writes it."""
        columns = session.columns
        real, tokens = columns.buffers
        return (
            session is self._session
            and all(map(is_, layers, self._cache_layers))
            and columns is self._columns
            and real is self._buffers[0]
            and tokens is self._buffers[1]
            and session.tail_start == self._tail_start
            and (self.masked or self.mask is not None or not columns.any_padding)
            and all(layer.fits() for layer in self.layers)
        )

    def load(self) -> None:
        """Bring counters and the step's own tensors to what the cache holds; the host waits for nothing."""
        self.length.fill_(self._columns.length - self._tail_start)
        before = self._columns.brought_back
        if before is None:
            self._brought_back.zero_()
        elif before is not self._brought_back:
            self._brought_back.copy_(before)
        if self.mask is not None and not self.masked:
            self.mask[:, : self._columns.length].copy_(self._columns.real)
        for layer in self.layers:
            layer.load()

    def load_mask(self, mask: Tensor) -> None:
        """Take the caller's mask `[B, columns]`, the new column included."""
        assert self.mask is not None
        self.mask[:, : mask.shape[1]].copy_(mask)
        self.mask[:, mask.shape[1] :].zero_()

    def begin(self, input_ids: Tensor) -> None:
        """Work out, at the start of every step, where it writes and what it writes there besides keys and values."""
        self._own_column = self.length + self._tail_start
        self.seen = self._own_column.squeeze(0)
        real, tokens = self._buffers
        tokens.index_copy_(1, self._own_column, input_ids)
        if self.mask is None or not self.masked:
            real.index_fill_(1, self._own_column, True)
        else:
            real.index_copy_(1, self._own_column, self.mask.index_select(1, self._own_column))
            self._note_brought_back(real)
        if self.mask is not None:
            self.mask.index_fill_(1, self._own_column, True)  # padding sees itself: no row may be empty

    def _note_brought_back(self, real: Tensor) -> None:
        """Note whether the mask shows padding that no head holds; see `Columns`."""
        assert self.mask is not None
        if self._tail_start:
            shown = self.mask[:, : self._tail_start] & ~real[:, : self._tail_start]
            self._brought_back.logical_or_(shown.any())

    def end(self) -> None:
        """Move on, at the end of every step."""
        self.log.write(self._own_column)
        self.length.add_(1)

    def append_and_attend(
        self,
        index: int,
        store: RaggedStore,
        keys: Tensor,
        values: Tensor,
        queries: Tensor,
        settings: AttentionSettings,
        shown: Tensor | None,
    ) -> Tensor:
        """Attention of one compressed layer to all that it holds, the new token included.

        Args:
            index: of the layer in the model.
            store: its store.
            keys: `[B, H, 1, head_dim]`.
            values: `[B, H, 1, value_dim]`.
            queries: `[B, query_heads, 1, head_dim]`.
            settings: the model's scaling, softcap and sinks.
            shown: what `full_mask` returned.
        """
        request = AttentionRequest(queries, settings, *self.masks(store, shown))
        output = append_and_attend(store, keys, values, request, self.length)
        self.note(index, queries, settings, output)
        return output

    def note(self, index: int, queries: Tensor, settings: AttentionSettings, output: Tensor) -> None:
        """Note what later rounds need of a compressed layer: its queries, and norms, see `LavaLayer.stream_norms`."""
        norms = self._cache_layers[index].stream_norms(self.pop_norms(), output)
        self.log.note(index, queries, settings, norms)

    def masks(self, store: RaggedStore, shown: Tensor | None = None) -> Masks:
        """What a compressed layer's new query sees of all that fits behind its past, and of the past.

        Args:
            store: the layer's.
            shown: what `full_mask` returned.
        """
        start, mask = self._tail_start, None if self.mask is None else self.mask[:, None, None]
        if shown is not None:
            mask = shown if mask is None else shown & mask
        if mask is None:
            return NOTHING_HIDDEN
        past = mask[..., :start] if start and (self.masked or shown is not None) else None
        return Masks(mask[..., start : start + store.tail_capacity], past)

    def full_mask(self, kwargs: dict[str, Any]) -> Tensor | None:
        """What the model's mask function shows of all columns beside padding, bool `[B, 1, 1, columns]`; None for all.

        Args:
            kwargs: what transformers calls a mask function with.
        """
        if kwargs["mask_function"] is causal_mask_function:
            return None
        return self._shown(kwargs, torch.arange(self._num_columns, device=self.device))

    def sliding_mask(self, kwargs: dict[str, Any]) -> Tensor:
        """The mask of sliding layers for the columns that `StaticSliding.update` returns, `[B, 1, 1, window]`.

        Args:
            kwargs: what transformers calls a mask function with.
        """
        size, attention = int(kwargs["kv_length"]), getattr(kwargs.get("config"), "_attn_implementation", None)
        if attention not in ("sdpa", "eager"):
            raise CannotCapture(f"sliding layers under the attention {attention!r}")
        columns = self._own_column - (size - 1) + torch.arange(size, device=self.device)
        shown = self._shown(kwargs, columns) & (columns >= 0)
        if self.masked and self.mask is not None:
            shown = shown & self.mask.index_select(1, columns.clamp(min=0))[:, None, None]
        if attention == "sdpa":
            return shown
        hidden: Tensor = torch.zeros_like(shown, dtype=kwargs["dtype"])
        return hidden.masked_fill(~shown, torch.finfo(kwargs["dtype"]).min)

    def _shown(self, kwargs: dict[str, Any], columns: Tensor) -> Tensor:
        """What a mask function shows of columns `[n]` to the new token, bool `[B, 1, 1, n]`."""
        if kwargs.get("use_vmap"):
            raise CannotCapture("the model has mask functions of its own")
        batch = torch.arange(kwargs["batch_size"], device=self.device).view(-1, 1, 1, 1)
        head = torch.zeros(1, 1, 1, 1, dtype=torch.int64, device=self.device)
        found: Tensor = kwargs["mask_function"](batch, head, self.seen.view(1, 1, 1, 1), columns.view(1, 1, 1, -1))
        return found.expand(kwargs["batch_size"], 1, 1, len(columns))

    def advance(self) -> None:
        """Count one column on the host, as every step does on the device."""
        columns = self._columns
        columns.advance(1, self.masked)
        if self.masked:
            columns.brought_back = self._brought_back
        for layer in self.layers:
            layer.advance()
        self._session.log.count(self.log, columns.length)

    def save(self) -> None:
        """Remember what a trial run changes in place."""
        for layer in self.layers:
            layer.save()

    def restore(self) -> None:
        """Undo a trial run."""
        for layer in self.layers:
            layer.restore()
        self.load()

    def forget_saved(self) -> None:
        """Free what `save` copied."""
        for layer in self.layers:
            layer.forget_saved()
