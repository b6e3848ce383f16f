"""What `generate` does to a cache between forwards: sequences moved and repeated, the end taken back."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

from lavakv.errors import HiddenTensorError, InputError, UnsupportedError
from lavakv.hf.arguments import number_to_remove, sequence_numbers
from lavakv.hf.croppable import check_layer_crop, crop_stock_layer
from lavakv.hf.state import CacheState
from lavakv.store.base import LayerStore
from lavakv.store.growing import storing


class CacheOperations:
    """Mixed into a cache ahead of transformers' own methods. All of them do nothing to an empty cache but `expand`."""

    _state: CacheState
    layers: list[Any]
    whole_text_follows = False  # set by a first round of drafts: what is sent next begins with what is held

    def select(self, sequences: Sequence[int] | Tensor) -> None:
        """Hold some sequences of the batch, in the order given, any number of times each.

        Raises:
            InputError: no such sequences.
            CacheStateError: the cache holds no prompt, or its last forward failed.
        """
        session = self._state.session
        numbers = sequence_numbers(sequences, session.batch) if session.batch > 0 else []
        session.select(numbers)
        self._note_rows(numbers)
        indices = torch.tensor(numbers, device="cpu")
        with storing(), session.changing():
            for layer in self.layers:
                layer.move_states(indices) if isinstance(layer, LayerOperations) else layer.reorder_cache(indices)

    def expand(self, num_copies: int) -> None:
        """Repeat each sequence, so that one context serves a batch of questions: rows `0, 0, 1, 1` for two of each.

        Args:
            num_copies: how often each sequence is there afterwards.

        Raises:
            InputError: not a whole number, or below 1.
            CacheStateError: the cache holds no prompt, or its last forward failed.
        """
        if not isinstance(num_copies, int) or isinstance(num_copies, bool) or num_copies < 1:
            raise InputError(
                "num_copies", expected="a whole number, 1 or more", got=repr(num_copies), fix="Pass a number of copies."
            )
        batch = max(self._state.session.batch, 0)
        self.select([row for row in range(batch) for _ in range(num_copies)])

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Does what `expand` does, under the name that transformers has for it."""
        if self._is_filled():
            self.expand(repeats)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Hold these sequences alone, int64 or bool `[rows]`.

        Raises:
            InputError: no such sequences.
            CacheStateError: the last forward failed.
        """
        if self._is_filled():
            self.select(indices)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Let the sequences go on from others of the batch, int64 `[rows]`, as beam search does after every token.

        Sequences that hold bitwise the same past, as beams of one prompt do from their first reordering on, move no
        more than their tails.

        Raises:
            InputError: no such sequences.
            CacheStateError: the last forward failed.
        """
        self.batch_select_indices(beam_idx)

    def crop(self, tokens_to_remove: int) -> None:
        """Take the last tokens back, as if they had never come; sliding layers go along.

        Args:
            tokens_to_remove: 0 or the number of tokens with a minus in front of it; where transformers is older than
                5.18, as there, also a positive number, the tokens that stay.

        Raises:
            InputError: a positive number, more than the cache holds, or tokens that an eviction has judged by.
            CacheStateError: a sliding layer does not hold what would be visible again, or the last forward failed.
            UnsupportedError: a layer with a recurrent state.
        """
        count = number_to_remove(tokens_to_remove, self._state.session.columns.length)
        if not self._is_filled():
            return
        session = self._state.session
        session.check_crop(count)
        for number, layer in enumerate(self.layers):
            check_layer_crop(layer, number, count, session.columns.length)
        if count and count == session.columns.length:
            self.reset()
            return
        session.crop(count)
        with storing(), session.changing():
            for layer in self.layers:
                layer.crop_rest(count) if isinstance(layer, LayerOperations) else crop_stock_layer(layer, count)
        self._after_crop()

    def _note_rows(self, sequences: Sequence[int]) -> None:
        """Move what else is known of each sequence."""

    def _after_crop(self) -> None:
        """Do what is due after tokens were taken back."""

    @abstractmethod
    def reset(self) -> None:
        """Forget everything; the cache is as new."""

    @property
    def is_initialized(self) -> bool:
        """Whether a prompt is in. A compressed layer by itself says no: there are no keys of it to look at."""
        layers = [layer for layer in self.layers if layer.supports_early_init]
        filled = (layer.num_columns if isinstance(layer, LayerOperations) else layer.is_initialized for layer in layers)
        return len(layers) > 0 and all(filled)

    @property
    def is_recording(self) -> bool:
        """Whether tokens to come may be taken back; see `activate_past_recording`."""
        return any(getattr(layer, "record_past", False) for layer in self.layers)

    def stop_recording(self) -> None:
        """Undo `activate_past_recording`: sliding layers hold their window alone again."""
        self.crop(0)
        for layer in self.layers:
            if hasattr(layer, "record_past"):
                layer.record_past = False

    def __iter__(self) -> Iterator[Any]:
        raise HiddenTensorError(
            "keys and values of a cache's layers",
            expected="no code that reads them as one tensor a layer: each head holds its own survivors",
            got="a loop over the cache",
            fix="`cache.kept_positions(layer, batch, head)` says what a head holds, `cache.layers[i].store` has it.",
        )

    def _is_filled(self) -> bool:
        self._state.session.require_sound()
        return self._state.session.batch > 0


class LayerOperations:
    """The same for one compressed layer, ahead of transformers' own methods.

    Called for one layer alone, they leave the others, and what the cache knows of its columns, as they are.
    """

    store: LayerStore
    num_columns: int
    record_past: bool
    _state: CacheState

    @storing()
    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Let this layer's sequences go on from others; see `CacheOperations.reorder_cache`."""
        if self.num_columns:
            numbers = sequence_numbers(beam_idx, self._state.session.batch)
            self.store.select(numbers)
            self.move_states(torch.tensor(numbers, device="cpu"))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Hold these sequences of the layer alone."""
        self.reorder_cache(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each sequence of the layer."""
        if self.num_columns:
            self.reorder_cache(torch.arange(self._state.session.batch).repeat_interleave(repeats))

    @storing()
    def crop(self, tokens_to_remove: int) -> None:
        """Take the layer's last tokens back; see `CacheOperations.crop`."""
        count = number_to_remove(tokens_to_remove, self.num_columns)
        if not self.num_columns:
            return
        self._state.session.check_crop(count)
        check_layer_crop(self, getattr(self, "index", -1), count, self.num_columns)
        cut = self.store.truncate if count <= self.store.tail_length else self.store.truncate_past
        cut(count)
        self.crop_rest(count)

    def activate_past_recording(self) -> None:
        """Note that tokens to come may be taken back; the store needs nothing for it."""
        self.record_past = True

    def move_states(self, indices: Tensor) -> None:
        """Move what the layer holds beside its store."""

    def crop_rest(self, num_columns: int) -> None:
        """Take back what the layer holds beside its store, and count."""
        self.num_columns -= num_columns

    def reset(self) -> NoReturn:
        """Unsupported: the layers of a cache are emptied together."""
        raise _unsupported("emptying one layer of a cache", "Call `cache.reset()`.")

    def offload(self, *_: object) -> NoReturn:
        """Unsupported."""
        raise _unsupported("offloading", "Use DynamicCache, or go without it.")

    def prefetch(self, *_: object) -> NoReturn:
        """Unsupported."""
        raise _unsupported("offloading", "Use DynamicCache, or go without it.")


def _unsupported(what: str, fix: str) -> UnsupportedError:
    return UnsupportedError(what, expected="a plain transformers cache", got="a LavaCache", fix=fix)
