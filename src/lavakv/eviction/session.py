"""A batch read and evicted across layers and forwards, whatever the engine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from lavakv.budgets.spec import Tolerance
from lavakv.errors import CacheStateError
from lavakv.eviction.held import HeldLayers, Phase, SessionSnapshot
from lavakv.eviction.later import LaterRound, Observation, later_plans, over_budget
from lavakv.eviction.records import Budgets, RankedLayer
from lavakv.eviction.round import Ranker, Round, Windows
from lavakv.eviction.shares import SequencePlan
from lavakv.policy.rules import Policy
from lavakv.store.base import LayerStore
from lavakv.store.growing import storing

__all__ = ["Phase", "Session", "SessionSnapshot"]


class Session(HeldLayers):
    """Drives the stores of all compressed layers through forwards and rounds.

    The first forward is the prompt: `begin`, `plan`, `take` for each layer in order, `end`. Every later one is `begin`,
    `append` for each layer, `end`; `num_taken` counts the layers of the prompt that are in. Between forwards `evict`
    runs a round over what is held.

    Args:
        stores: one a compressed layer, empty.
        num_heads: KV heads of each.
        window: last columns whose queries `log` remembers for later rounds.
    """

    def __init__(self, stores: Sequence[LayerStore], num_heads: Sequence[int], window: int = 0) -> None:
        super().__init__(stores, num_heads, window)
        self.num_taken = 0
        self._round: Round | None = None

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
