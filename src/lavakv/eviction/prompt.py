"""Eviction of one batch of prompts while the prefill runs through the layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lavakv.allocation import allocate, prompt_caps
from lavakv.budgets.heads import worst_case_spare
from lavakv.budgets.layers import SLACK
from lavakv.eviction.newcomer import Newcomer
from lavakv.eviction.plan import PromptPlan
from lavakv.eviction.readback import Readback
from lavakv.eviction.records import Budgets, RankedPrompt, Settled
from lavakv.policy import Policy
from lavakv.scoring.window import ScoringWindow
from lavakv.store.base import LayerStore

Ranker = Callable[[Policy, ScoringWindow, int], RankedPrompt]


class PromptEviction:
    """Trims layers as later ones become known and ends with what one-shot selection would have kept.

    A layer gets its share of what is known as soon as the host knows how it scored: at once on the CPU, so that only
    one is ever held whole; when the next layer is in on a CUDA device, where two are, so that the host never waits for
    work it has just queued. Older layers shrink only when the allocation would pass `SLACK` times the total, the one
    that frees most per copied entry first.

    Attributes:
        prompts: one plan a sequence.
        copied_entries: entries copied so far, gathers and trims together.
        peak_entries: most entries allocated before the window at any time, layers held whole aside.
    """

    def __init__(
        self,
        prompts: Sequence[PromptPlan],
        stores: Sequence[LayerStore],
        num_heads: Sequence[int],
        ranker: Ranker = RankedPrompt.of,
    ) -> None:
        self.prompts = list(prompts)
        self._stores, self._num_heads, self._ranker = list(stores), list(num_heads), ranker
        self._allocations = [
            None
            if plan.keeps_all
            else allocate(plan.policy, plan.mean_entries, prompt_caps(num_heads, plan.num_evictable))
            for plan in prompts
        ]
        self._settled: list[list[Settled | None]] = []
        self._held: list[int] = []
        self._waiting: list[Newcomer | None] | None = None
        self.copied_entries = 0
        self.peak_entries = 0

    def add_layer(self, windows: Sequence[ScoringWindow | None]) -> Budgets | None:
        """Take the next layer, whose store already holds the prompt.

        Args:
            windows: for each sequence what to score, or None where it keeps everything.

        Returns:
            What was decided, once the last layer is in.
        """
        if self._waiting is not None:  # before the next one needs room for its scores
            self._place(self._waiting)
        newest = self._ranked(windows)
        self._waiting = newest
        is_last = len(self._held) == len(self._stores) - 1
        if is_last or not any(one is not None and one.deferred for one in newest):
            self._place(newest)
        return self._finish() if is_last else None

    def add_all(self, windows: Sequence[Sequence[ScoringWindow | None]]) -> Budgets:
        """Take all layers at once, where nothing needs to be trimmed on the way; the end is that of `add_layer`.

        Args:
            windows: for each layer what `add_layer` takes.
        """
        layers = [self._ranked(layer) for layer in windows]
        for newcomers in layers:
            self._compete(newcomers)
        counts = [self._final_counts(row) for row in range(len(self.prompts))]
        for layer, newcomers in enumerate(layers):
            self._gather(layer, newcomers, [row[layer] for row in counts])
        return self._finish()

    def _ranked(self, windows: Sequence[ScoringWindow | None]) -> list[Newcomer | None]:
        """Rank each sequence's entries of the next layer."""
        newcomers: list[Newcomer | None] = []
        for plan, window in zip(self.prompts, windows, strict=True):
            if window is None:
                newcomers.append(None)
            else:
                min_entries_per_head = plan.policy.min_entries_per_head(plan.tokens_per_head, plan.window)
                ranked = self._ranker(plan.policy, window, min_entries_per_head)
                newcomers.append(Newcomer(ranked, plan, plan.mean_entries * sum(self._num_heads)))
        return newcomers

    def _compete(self, newcomers: Sequence[Newcomer | None]) -> None:
        """Let the next layer compete for each sequence's budget."""
        for newcomer, allocation in zip(newcomers, self._allocations, strict=True):
            if newcomer is not None:
                assert allocation is not None
                newcomer.compete(allocation)

    def _place(self, newcomers: Sequence[Newcomer | None]) -> None:
        """Give the next layer its share of what is known, and make room for it."""
        self._compete(newcomers)
        newest = len(self._held)
        is_last = newest == len(self._stores) - 1
        if is_last:
            for layer in range(newest):  # first, or the last layer's share would come on top of their slack
                self._trim(layer, final=True)
        else:
            self._make_room(newest)
        self._gather(newest, newcomers, self._counts(newest, final=is_last))
        self._waiting = None

    def _make_room(self, newcomer: int) -> None:
        """Trim placed layers until `newcomer` fits under the allocation bound."""
        spare = len(self.prompts) * sum(worst_case_spare(heads) for heads in self._num_heads)
        bound = spare + sum(
            int((1.0 if plan.keeps_all else SLACK) * plan.mean_entries * sum(self._num_heads)) for plan in self.prompts
        )
        needs = [self._needed(layer) for layer in range(newcomer + 1)]
        while sum(self._held) + needs[newcomer] > bound:
            wasteful = max(range(newcomer), key=lambda layer: self._held[layer] / max(needs[layer], 1))
            if self._held[wasteful] <= needs[wasteful]:
                break
            self._trim(wasteful, final=False)
            needs[wasteful] = self._held[wasteful]

    def _needed(self, layer: int) -> int:
        """Upper bound on the entries a layer must keep now, window aside."""
        rows = zip(self.prompts, self._allocations, strict=True)
        return sum(
            plan.num_evictable * self._num_heads[layer] if allocation is None else allocation.most(layer)
            for plan, allocation in rows
        )

    def _gather(self, layer: int, newcomers: Sequence[Newcomer | None], counts: list[list[int]]) -> None:
        """Give a whole layer its share and let go of the rest."""
        ranked = [None if newcomer is None else newcomer.ranked for newcomer in newcomers]
        columns = [self._ranked_columns(layer, row, prompt) for row, prompt in enumerate(ranked)]
        self._stores[layer].keep(columns, counts, self._tail_columns())
        self._held.append(0)
        self._note_copy(layer, sum(map(sum, counts)))
        self._settled.append(
            [None if prompt is None else prompt.settle(max(row)) for prompt, row in zip(ranked, counts, strict=True)]
        )

    def _trim(self, layer: int, final: bool) -> None:
        """Cut a placed layer down to its share, if that is smaller by now."""
        counts = self._counts(layer, final)
        held = sum(map(sum, counts))
        if held != self._held[layer]:
            self._stores[layer].trim(counts)
            self._note_copy(layer, held)

    def _note_copy(self, layer: int, held: int) -> None:
        self.copied_entries += held
        self._held[layer] = held
        self.peak_entries = max(self.peak_entries, sum(self._held))

    def _counts(self, layer: int, final: bool) -> list[list[int]]:
        """Entries each head of a layer keeps of each sequence, window aside."""
        counts: list[list[int]] = []
        for plan, allocation in zip(self.prompts, self._allocations, strict=True):
            if allocation is None:
                counts.append([plan.num_evictable] * self._num_heads[layer])
            else:
                counts.append(allocation.counts(layer, final).tolist())
        return counts

    def _final_counts(self, row: int) -> list[list[int]]:
        """The same of one sequence in all layers, once all are known."""
        allocation = self._allocations[row]
        if allocation is None:
            return [[self.prompts[row].num_evictable] * heads for heads in self._num_heads]
        return allocation.final_counts()

    def _ranked_columns(self, layer: int, row: int, ranked: RankedPrompt | None) -> Tensor:
        """Columns before the window by rank, `[H, n]`."""
        prompt = self.prompts[row]
        if ranked is not None:
            return ranked.ranking.positions + prompt.num_padding
        first = prompt.num_padding
        columns = torch.arange(first, first + prompt.num_evictable, device=self._stores[layer].device)
        return columns.expand(self._num_heads[layer], -1)

    def _tail_columns(self) -> int:
        """Columns of the window; a batch of prompts shorter than the window has fewer."""
        columns = self.prompts[0].num_padding + self.prompts[0].num_tokens
        return min(self.prompts[0].window, columns)

    def _finish(self) -> Budgets:
        layers, batch = len(self._stores), len(self.prompts)
        heads = torch.zeros(layers, batch, max(self._num_heads), dtype=torch.int64, device="cpu")
        weights = torch.full((layers, batch), float("nan"), dtype=torch.float64, device="cpu")
        loss = torch.zeros(layers, batch, dtype=torch.float64, device="cpu")
        kept: dict[tuple[int, int], tuple[Settled, Readback]] = {}
        for layer in range(layers):
            counts = self._stores[layer].past_counts()
            for row, settled in enumerate(self._settled[layer]):
                window = min(self.prompts[row].window, self.prompts[row].num_tokens)
                heads[layer, row, : len(counts[row])] = torch.tensor(counts[row], device="cpu") + window
                if settled is not None:
                    kept[layer, row] = settled, settled.kept_loss(counts[row])
        for place, (settled, kept_loss) in kept.items():
            weights[place], loss[place] = settled.weight, settled.without(kept_loss)
        return Budgets(heads.sum(dim=2), weights, heads, loss)
