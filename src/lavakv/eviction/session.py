"""What is known of a batch across layers and forwards, whatever the engine: phases, columns, stores, budgets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import Enum
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from lavakv.budgets.spec import Tolerance
from lavakv.errors import CacheStateError, InputError
from lavakv.eviction.columns import Columns
from lavakv.eviction.later import LaterRound, Observation, later_plans, over_budget
from lavakv.eviction.query_log import QueryLog
from lavakv.eviction.records import Budgets, RankedLayer
from lavakv.eviction.round import Ranker, Round, Windows
from lavakv.eviction.shares import SequencePlan
from lavakv.policy.rules import Policy
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


class Session:
    """Drives the stores of all compressed layers through forwards and rounds.

    The first forward is the prompt: `begin`, `plan`, `take` for each layer in order, `end`. Every later one is `begin`,
    `append` for each layer, `end`. Between forwards `evict` runs a round over what is held, `truncate` cuts the end
    off, `snapshot` and `restore` move it elsewhere.

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
        num_taken: layers of the prompt that are in.
        log: the last queries, as far as the engine notes them there.
        last_round: columns seen when the last round ran; those behind it can be cropped without a trace.
    """

    def __init__(self, stores: Sequence[LayerStore], num_heads: Sequence[int], window: int = 0) -> None:
        self.stores, self._num_heads = list(stores), list(num_heads)
        self.phase = Phase.EMPTY
        self.columns = Columns()
        self.budgets: Budgets | None = None
        self.tokens_per_head: list[int] = []
        self.num_taken = 0
        self.log = QueryLog(window)
        self.last_round = 0
        self._round: Round | None = None

    @property
    def batch(self) -> int:
        """Sequences held, -1 while empty."""
        return -1 if self.phase is Phase.EMPTY else self.columns.real.shape[0]

    @property
    def tail_start(self) -> int:
        """Columns before the tail, of which heads hold only survivors; 0 before the prompt is in."""
        return 0 if self.budgets is None else self.columns.length - self.stores[0].tail_length

    @property
    def plans(self) -> list[SequencePlan] | None:
        """What is known of each sequence of the prompt under way; None while it is not planned."""
        return None if self._round is None else self._round.plans

    def begin(self, real: Tensor, all_real: bool, tokens: Tensor) -> None:
        """Start a forward; see `Columns.append` for what it brings.

        Raises:
            CacheStateError: an earlier forward did not finish.
        """
        self.require_sound()
        self.columns.append(real, all_real, tokens)
        self.log.begin(real.shape[1])
        self.phase = Phase.READING

    def plan(self, plans: Sequence[SequencePlan], ranker: Ranker = RankedLayer.of) -> None:
        """Say what each sequence of the prompt under way may keep."""
        assert self.phase is Phase.READING
        assert self.budgets is None
        self._round = Round(plans, self.stores, self._num_heads, ranker)
        self._note_budgets(self._round)

    @storing()
    def take(self, keys: Tensor, values: Tensor, windows: Windows) -> None:
        """Store and score the next layer's prompt, and evict what its share does not cover.

        Args:
            keys: `[B, H, columns, head_dim]`.
            values: `[B, H, columns, value_dim]`.
            windows: for each sequence what to score, or None where it keeps everything.
        """
        assert self._round is not None
        self.stores[self.num_taken].hold(keys, values)
        self.num_taken += 1
        self.budgets = self._round.add_layer(windows)

    @storing()
    def take_all(self, layers: Iterable[tuple[Tensor, Tensor, Windows]]) -> None:
        """The same for all layers at once, of a prompt that was read before; budgets may be open until then."""
        assert self._round is not None
        windows = []
        for store, (keys, values, own) in zip(self.stores, layers, strict=True):
            store.hold(keys, values)
            windows.append((own, None))
        self.num_taken = len(windows)
        self.budgets = self._round.add_all(windows)
        self._note_budgets(self._round)

    def end(self, succeeded: bool) -> None:
        """Close a forward."""
        if self.phase is Phase.READING:
            self.phase = Phase.HOLDING if succeeded else Phase.BROKEN
            self.log.end(succeeded)
            self.last_round = self.last_round or self.columns.length
        self._round = None

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

    def evict(
        self,
        observations: Sequence[Observation],
        budgets: Sequence[tuple[Policy, int | Tolerance]],
        window: int,
        protect: range = range(0),
    ) -> Budgets:
        """Run a round over everything held, so that each sequence is within its budget again.

        Args:
            observations: what judges the candidates, one a layer.
            budgets: policy and mean entries per head, window included, of each sequence; or a tolerance to find them
                by.
            window: columns at the end that all heads keep; fewer where the tail was cut off to less.
            protect: original positions that every head keeps, as it has in all rounds before.

        Raises:
            CacheStateError: there is nothing to evict from, or a forward did not finish.
            BudgetError: a budget that does not exceed the window though more tokens were seen; a tolerance where the
                estimated loss is no finite number.
            InputError: not one budget a sequence or one observation a layer, too few queries, padding in the window.
            LavaError: as the policies' scores raise it; the session is then unchanged.
        """
        self.require_prompt()
        window = min(window, self.stores[0].tail_length)
        if not window:
            raise CacheStateError(
                "cache", expected="columns at the end that every head holds", got="none: they were all cut off",
                fix="Read further tokens before the next round.",
            )  # fmt: skip
        plans = later_plans(self.columns, budgets, window, protect)
        with storing(), torch.no_grad():
            later = LaterRound(plans, self.stores, self.columns)
            try:
                self.budgets = later.round.add_all(later.layers(observations))
            except BaseException:
                self.phase = Phase.BROKEN if later.round.has_evicted else self.phase
                raise
        self.last_round = self.columns.length
        self._note_budgets(later.round)
        return self.budgets

    def _note_budgets(self, one: Round) -> None:
        self.tokens_per_head = [0 if plan.tolerance else plan.tokens_per_head for plan in one.plans]

    def evict_by_log(
        self,
        budgets: Sequence[tuple[Policy, int | Tolerance]],
        window: int,
        weight: Callable[[int], Tensor | None],
        protect: range = range(0),
    ) -> Budgets:
        """`evict`, judged by the queries that the log remembers: those of the window, or fewer.

        Args:
            budgets: see `evict`.
            window: columns at the end that all heads keep; as many as the log remembers at most, and none in which a
                sequence that evicts has padding, as where questions of unequal lengths came last.
            weight: gives a layer's output projection, see `QueryLog.observations`.
            protect: see `evict`.

        Raises:
            CacheStateError: no queries are remembered.
            LavaError: see `evict`.
        """
        self.require_prompt()
        if not self.log.num_columns:
            raise CacheStateError(
                "cache", expected="queries of the last tokens, which judge the others",
                got="none: what it holds was loaded, or the last tokens were cut off", fix="Read further tokens first.",
            )  # fmt: skip
        window = min(window, self.log.num_columns)
        tokens, _ = self.columns.tokens_and_padding()
        evicting = over_budget(tokens, [budget for _, budget in budgets])
        window = self.columns.last_tokens(evicting, window) or window  # none at all is an error there
        return self.evict(self.log.observations(weight), budgets, window, protect)

    def withdraw(self, num_columns: int) -> None:
        """Undo `begin` of a forward on a prompt that is held, before any layer has run."""
        assert self.phase is Phase.READING
        assert self.budgets is not None
        self.columns.truncate(num_columns)
        self.log.end(succeeded=False)
        self.phase = Phase.HOLDING

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
        return SessionSnapshot(*seen, self.budgets, stores, columns.brought_back, *self.log.snapshot())

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
