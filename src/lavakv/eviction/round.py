"""One round of eviction over all layers of a batch: candidates are scored, ranked, given shares, and kept or evicted.

A prompt is the round whose past is empty: it runs while the prefill does, layer after layer. Later rounds find the
layers ragged and all at hand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import product

import torch
from torch import Tensor

from lavakv.eviction.records import Budgets, PendingLayer, PlacedLayer, RankedLayer
from lavakv.eviction.shares import SequencePlan, Shares
from lavakv.eviction.tolerance import decided, ranked_for
from lavakv.policy.numbers import Readback
from lavakv.policy.rules import Policy
from lavakv.scoring.window import ScoringWindow
from lavakv.store.base import LayerStore

Ranker = Callable[[Policy, ScoringWindow, int, Tensor | None], RankedLayer]
Windows = Sequence[ScoringWindow | None]  # one a sequence; None where it keeps everything
Columns = Sequence[Tensor]  # int64 `[H, n]` a sequence: the column of each candidate


class Round:
    """Trims layers as later ones become known and ends with what one-shot selection would have kept.

    A layer gets its share of what is known as soon as the host knows how it scored: at once on the CPU, so that only
    one is ever held whole; when the next layer is in on a CUDA device, where two are, so that the host never waits for
    work it has just queued. Older layers shrink only when the allocation would pass `SLACK` times the total, the one
    that frees most per copied entry first.

    Args:
        plans: one a sequence.
        stores: one a layer; each holds its candidates when its layer is added.
        num_heads: KV heads of each layer.
        ranker: what scores and ranks one sequence in one layer.
        caps: for each sequence candidates of each head of each layer, see `Shares`; None for prompts.
        window_tokens: tokens of each sequence in the window; None for prompts, where padding stands before it.

    Attributes:
        plans: one a sequence.
        shares: what each head keeps by what is known.
        has_evicted: whether a store has been told to evict, so that a failure from there on leaves stores that do not
            fit together.
        copied_entries: entries copied so far, gathers and trims together.
        peak_entries: most entries placed before the window at any time, excluding layers still held in full.
    """

    def __init__(
        self,
        plans: Sequence[SequencePlan],
        stores: Sequence[LayerStore],
        num_heads: Sequence[int],
        ranker: Ranker = RankedLayer.of,
        caps: Sequence[Sequence[Tensor]] | None = None,
        window_tokens: Sequence[int] | None = None,
    ) -> None:
        self.plans = list(plans)
        if window_tokens is None:
            window_tokens = [min(plan.window, plan.num_tokens) for plan in plans]
        self._window_tokens = window_tokens
        self._caps = caps
        self.shares = Shares(plans, num_heads, caps)
        self._stores, self._num_heads, self._ranker = list(stores), list(num_heads), ranker
        self._placed: list[list[PlacedLayer | None]] = []
        self._held: list[int] = []
        self._waiting: tuple[list[PendingLayer | None], Columns | None] | None = None
        self.has_evicted = False
        self.copied_entries = 0
        self.peak_entries = 0

    def add_layer(self, windows: Windows, columns: Columns | None = None) -> Budgets | None:
        """Take the next layer, whose store already holds its candidates.

        Args:
            windows: for each sequence what to score.
            columns: of each sequence's candidates; None in a prompt, where those before the window are.

        Returns:
            What was decided, once the last layer is in.
        """
        assert not any(plan.is_open for plan in self.plans)
        if self._waiting is not None:  # before the next one needs memory for its scores
            self._place(*self._waiting)
        newest = self._pending(self._ranked(windows, len(self._held)))
        self._waiting = newest, columns
        is_last = len(self._held) == len(self._stores) - 1
        if is_last or not any(one is not None and one.deferred for one in newest):
            self._place(newest, columns)
        return self._finish() if is_last else None

    def add_all(self, layers: Iterable[tuple[Windows, Columns | None]]) -> Budgets:
        """Take all layers at once, where nothing needs to be trimmed on the way; ends as `add_layer` does.

        Budgets that are open are found once all layers are ranked; `plans` has them then. Nothing is evicted before the
        last layer is ranked, so whatever a score raises leaves all stores as they were.

        Args:
            layers: for each layer what `add_layer` takes; consumed one at a time.
        """
        ranked = [(self._ranked(windows, index), columns) for index, (windows, columns) in enumerate(layers)]
        if any(plan.is_open for plan in self.plans):
            self._decide([layer for layer, _ in ranked])
        pending = [(self._pending(layer), columns) for layer, columns in ranked]
        for newest, _ in pending:
            self.shares.add(newest)
        for layer, counts in enumerate(self.shares.final_counts()):
            self._gather(layer, *pending[layer], counts)
        return self._finish()

    def _decide(self, layers: Sequence[list[RankedLayer | None]]) -> None:
        """Find the budgets that are open, and rank for them; a sequence that keeps everything needs no ranks."""
        found = [row for row, plan in enumerate(self.plans) if plan.is_open and not self.shares.keeps_all(row)]
        for row in found:
            own = [one for one in (layer[row] for layer in layers) if one is not None]
            caps = None if self._caps is None else self._caps[row]
            self.plans[row] = decided(self.plans[row], self._num_heads, own, caps)
        self.shares = Shares(self.plans, self._num_heads, self._caps)
        for row, layer in product(found, layers):
            ranked = layer[row]
            assert ranked is not None
            layer[row] = None if self.shares.keeps_all(row) else ranked_for(self.plans[row], ranked)

    def _pending(self, ranked: Sequence[RankedLayer | None]) -> list[PendingLayer | None]:
        """A ranked layer as it joins the allocation of each sequence's budget."""
        return [
            None if one is None else PendingLayer(one, plan.policy.layer_rule == "pool", self.shares.total(row))
            for row, (plan, one) in enumerate(zip(self.plans, ranked, strict=True))
        ]

    def _ranked(self, windows: Windows, layer: int) -> list[RankedLayer | None]:
        """Rank each sequence's candidates of the next layer."""
        found: list[RankedLayer | None] = []
        for row, (plan, window) in enumerate(zip(self.plans, windows, strict=True)):
            if window is None:
                found.append(None)
                continue
            caps = None if self._caps is None else self.shares.caps(row, layer)
            found.append(self._ranker(plan.policy, window, plan.min_entries_per_head, caps))
        return found

    def _place(self, pending: Sequence[PendingLayer | None], columns: Columns | None) -> None:
        """Give the next layer its share of what is known, after trimming others until it fits."""
        self.shares.add(pending)
        newest = len(self._held)
        is_last = newest == len(self._stores) - 1
        if is_last:
            for layer in range(newest):  # first, or the last layer's share would come on top of their slack
                self._trim(layer, final=True)
        else:
            self._trim_to_bound(newest)
        self._gather(newest, pending, columns, self.shares.counts(newest, final=is_last))
        self._waiting = None

    def _trim_to_bound(self, newest: int) -> None:
        """Trim placed layers until the newest fits under the allocation bound."""
        needs = [self.shares.needed(layer) for layer in range(newest + 1)]
        while sum(self._held) + needs[newest] > self.shares.bound:
            wasteful = max(range(newest), key=lambda layer: self._held[layer] / max(needs[layer], 1))
            if self._held[wasteful] <= needs[wasteful]:
                break
            self._trim(wasteful, final=False)
            needs[wasteful] = self._held[wasteful]

    def _gather(
        self, layer: int, pending: Sequence[PendingLayer | None], columns: Columns | None, counts: list[list[int]]
    ) -> None:
        """Evict a full layer down to its share."""
        ranked = [None if one is None else one.ranked for one in pending]
        store = self._stores[layer]
        best_first = [
            self._prompt_columns(layer, row, one) if columns is None else _by_rank(columns[row], one)
            for row, one in enumerate(ranked)
        ]
        self.has_evicted = True
        store.keep(best_first, counts, min(self.plans[0].window, store.num_columns))
        self._held.append(0)
        self._note_copy(layer, sum(map(sum, counts)))
        self._placed.append(
            [None if one is None else one.placed(max(row)) for one, row in zip(ranked, counts, strict=True)]
        )

    def _trim(self, layer: int, final: bool) -> None:
        """Cut a placed layer down to its share, if that is smaller by now."""
        counts = self.shares.counts(layer, final)
        held = sum(map(sum, counts))
        if held != self._held[layer]:
            self._stores[layer].trim(counts)
            self._note_copy(layer, held)

    def _note_copy(self, layer: int, held: int) -> None:
        self.copied_entries += held
        self._held[layer] = held
        self.peak_entries = max(self.peak_entries, sum(self._held))

    def _prompt_columns(self, layer: int, row: int, ranked: RankedLayer | None) -> Tensor:
        """Columns before a prompt's window by rank, `[H, n]`."""
        plan = self.plans[row]
        if ranked is not None:
            return ranked.ranking.positions + plan.num_padding
        first, device = plan.num_padding, self._stores[layer].device
        return torch.arange(first, first + plan.num_evictable, device=device).expand(self._num_heads[layer], -1)

    def _finish(self) -> Budgets:
        """What was decided."""
        layers, batch = len(self._stores), len(self.plans)
        heads = torch.zeros(layers, batch, max(self._num_heads), dtype=torch.int64, device="cpu")
        weights = torch.full((layers, batch), float("nan"), dtype=torch.float64, device="cpu")
        loss, total = (torch.zeros(layers, batch, dtype=torch.float64, device="cpu") for _ in range(2))
        kept: dict[tuple[int, int], tuple[PlacedLayer, Readback]] = {}
        for layer, store in enumerate(self._stores):
            for row, (counts, placed) in enumerate(zip(store.past_counts(), self._placed[layer], strict=True)):
                heads[layer, row, : len(counts)] = torch.tensor(counts, device="cpu") + self._window_tokens[row]
                if placed is not None:
                    kept[layer, row] = placed, placed.kept_loss(counts)
        for place, (placed, kept_loss) in kept.items():
            weights[place], total[place] = placed.weight, placed.total_loss
            loss[place] = placed.without(kept_loss)
        return Budgets(heads.sum(dim=2), weights, heads, loss, total)


def _by_rank(columns: Tensor, ranked: RankedLayer | None) -> Tensor:
    """Columns of a later round's candidates by rank, `[H, n]`; by column where all are kept."""
    return columns if ranked is None else columns.gather(1, ranked.ranking.positions)
