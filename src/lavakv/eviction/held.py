"""What a session holds between forwards: columns, stores, budgets; how it is read, cut, moved and taken elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import Enum
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from lavakv.errors import CacheStateError, InputError
from lavakv.eviction.columns import Columns
from lavakv.eviction.query_log import QueryLog
from lavakv.eviction.records import Budgets
from lavakv.store.base import LayerStore, StoreSnapshot
from lavakv.store.growing import storing


class Phase(Enum):
    """Where a session stands."""

    EMPTY = "empty"  # nothing read yet
    READING = "reading"  # a forward is under way
    HOLDING = "holding"  # what was read is held, compressed
    BROKEN = "broken"  # a forward or a round failed half-way: what the stores hold does not fit together


class SessionSnapshot(NamedTuple):
    """All that a session holds between forwards, as plain tensors that later forwards leave alone.

    Attributes:
        real: bool `[B, columns]`, which columns are no padding.
        tokens: int64 `[B, columns]`, what the engine tells tokens apart by.
        budgets: what the last round decided.
        stores: one a layer.
        brought_back: see `Columns`.
        queries: what the log remembers of each layer, by the model's index; see `QueryLog.snapshot`.
        norms: likewise.
    """

    real: Tensor
    tokens: Tensor
    budgets: Budgets
    stores: tuple[StoreSnapshot, ...]
    brought_back: Tensor | None = None
    queries: Mapping[int, Tensor] = MappingProxyType({})
    norms: Mapping[int, Tensor] = MappingProxyType({})


class HeldLayers:
    """The stores of all compressed layers, and what is known of the columns they have seen.

    Args:
        stores: one a compressed layer, empty.
        num_heads: KV heads of each.
        window: last columns whose queries `log` remembers for later rounds.

    Attributes:
        phase: where the session stands.
        columns: real tokens and padding of all columns seen.
        budgets: what the last round decided, once the prompt is in.
        tokens_per_head: the budget of each sequence in the last round; 0 where it is to be found by a tolerance and
            nothing had to go yet. Empty before the first round and after `restore`.
        log: the last queries, as far as the engine notes them there.
        last_round: columns seen when the last round ran; those behind it can be cropped without a trace.
    """

    def __init__(self, stores: Sequence[LayerStore], num_heads: Sequence[int], window: int = 0) -> None:
        self.stores, self._num_heads = list(stores), list(num_heads)
        self.phase = Phase.EMPTY
        self.columns = Columns()
        self.budgets: Budgets | None = None
        self.tokens_per_head: list[int] = []
        self.log = QueryLog(window)
        self.last_round = 0

    @property
    def batch(self) -> int:
        """Sequences held, -1 while empty."""
        return -1 if self.phase is Phase.EMPTY else self.columns.real.shape[0]

    @property
    def tail_start(self) -> int:
        """Columns before the tail, of which heads hold only survivors; 0 before the prompt is in."""
        return 0 if self.budgets is None else self.columns.length - self.stores[0].tail_length

    def lengths(self) -> Tensor:
        """Entries held now, padding not counted, int64 `[layers, B, heads]` on the CPU; 0 for a head a layer lacks."""
        real, most_heads = self.columns.real, max(self._num_heads)
        lengths = torch.zeros(len(self.stores), self.batch, most_heads, dtype=torch.int64, device="cpu")
        for row, store in enumerate(self.stores):
            tail = real[:, self.columns.length - store.tail_length :].sum(dim=1).cpu()
            lengths[row, :, : store.num_heads] = torch.tensor(store.past_counts(), device="cpu") + tail[:, None]
        return lengths

    def kept_positions(self, layer: int, sequence: int, head: int) -> Tensor:
        """Original token positions that one head holds now, int64, ascending, on the CPU; `layer` counts the stores."""
        store = self.stores[layer]
        past = store.past_columns(sequence, head)
        tail = torch.arange(self.columns.length - store.tail_length, self.columns.length, device=past.device)
        return self.columns.positions(sequence, torch.cat([past, tail])).cpu()

    def truncate(self, num_columns: int) -> None:
        """Forget the last columns, as if they had never come.

        Raises:
            InputError: they reach into what was evicted.
            CacheStateError: nothing is held, or a forward did not finish.
        """
        self.require_prompt()
        for store in self.stores:
            store.truncate(num_columns)
        self.columns.truncate(num_columns)
        self.log.truncate(num_columns)

    def check_crop(self, num_columns: int) -> None:
        """Check that `crop` can forget the last columns.

        Raises:
            InputError: a round evicted by these columns, or evicted some of them.
            CacheStateError: nothing is held, or a forward did not finish.
        """
        self.require_prompt()
        since = max(self.columns.length - self.last_round, 0)
        if 0 <= num_columns <= since:  # nothing is read from a device
            return
        most = self.columns.length if self._holds_everything() else since
        if not 0 <= num_columns <= most:
            raise InputError(
                "tokens_to_remove",
                expected=f"0 to {most} tokens, those that came after the last eviction",
                got=str(num_columns),
                fix="What an eviction has judged by cannot be taken back; fill a new cache with the shorter text.",
            )

    def _holds_everything(self) -> bool:
        """Whether no head of any layer has evicted a token; read from the device."""
        tokens = self.columns.real[:, : self.tail_start].sum(dim=1).tolist()
        layers = (zip(tokens, store.past_counts(), strict=True) for store in self.stores)
        return all(count == seen for rows in layers for seen, heads in rows for count in heads)

    @storing()
    def crop(self, num_columns: int) -> None:
        """Forget the last columns where that leaves no trace, as if they had never come.

        Raises:
            LavaError: as `check_crop` raises it; the session is then unchanged.
        """
        self.check_crop(num_columns)
        if num_columns <= self.stores[0].tail_length:
            self.truncate(num_columns)
        else:
            with self.changing():
                for store in self.stores:
                    store.truncate_past(num_columns)
                self.columns.truncate(num_columns)
                self.log.truncate(num_columns)
        self.last_round = min(self.last_round, self.columns.length)

    @storing()
    def select(self, sequences: Sequence[int]) -> None:
        """Hold these sequences alone, in this order, any number of times each; frees what the others hold.

        Raises:
            CacheStateError: nothing is held, or a forward did not finish.
        """
        self.require_prompt()
        assert self.budgets is not None
        with self.changing():
            for store in self.stores:
                store.select(sequences)
            self.columns.select(sequences)
            self.log.select(sequences)
        rows = torch.tensor(sequences, device="cpu")
        self.budgets = Budgets(*(part.index_select(1, rows) for part in self.budgets))
        self.tokens_per_head = [self.tokens_per_head[row] for row in sequences] if self.tokens_per_head else []

    @contextmanager
    def changing(self) -> Iterator[None]:
        """What is held does not fit together where the block fails half-way."""
        try:
            yield
        except BaseException:
            self.phase = Phase.BROKEN
            raise

    def snapshot(self) -> SessionSnapshot:
        """What the session holds.

        Raises:
            CacheStateError: nothing is held, or a forward did not finish.
        """
        self.require_prompt()
        assert self.budgets is not None
        stores = tuple(store.snapshot() for store in self.stores)
        columns = self.columns
        seen = columns.real.clone(), columns.tokens.clone()
        brought_back = None if columns.brought_back is None else columns.brought_back.clone()
        return SessionSnapshot(*seen, self.budgets, stores, brought_back, *self.log.snapshot())

    @storing()
    def restore(self, snapshot: SessionSnapshot) -> None:
        """Hold what a snapshot of a session over the same layers holds.

        Raises:
            InputError: other layers; the session is unchanged.
        """
        heads = [held.past_counts.shape[1] for held in snapshot.stores]
        if heads != self._num_heads:
            raise InputError(
                "snapshot", expected=f"layers of {self._num_heads} KV heads", got=f"layers of {heads}",
                fix="Restore it into a session over the same layers.",
            )  # fmt: skip
        for store, held in zip(self.stores, snapshot.stores, strict=True):
            store.restore(held)
        self.columns = Columns()
        self.columns.restore(snapshot.real, snapshot.tokens)
        self.columns.brought_back = snapshot.brought_back
        self.log.restore(snapshot.queries, snapshot.norms)
        self.tokens_per_head = []
        self.budgets, self.phase, self.last_round = snapshot.budgets, Phase.HOLDING, snapshot.real.shape[1]

    def require_sound(self) -> None:
        """Raise CacheStateError where a forward failed half-way or is under way."""
        if self.phase in (Phase.READING, Phase.BROKEN):
            raise CacheStateError(
                "cache", expected="a cache whose last forward finished", got="one that stopped half-way",
                fix="Call `cache.reset()` and send the prompt again.",
            )  # fmt: skip

    def require_prompt(self) -> None:
        """Raise CacheStateError where nothing is held, or a forward failed half-way or is under way."""
        self.require_sound()
        if self.phase is not Phase.HOLDING:
            raise CacheStateError(
                "cache", expected="a prompt in the cache", got="an empty cache", fix="Run the model on a prompt first."
            )
