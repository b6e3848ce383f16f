"""Eviction of one batch of prompts while the prefill runs through the layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lavakv.budgets.heads import head_budgets, retained_while_trimming, worst_case_spare
from lavakv.budgets.layers import SLACK, layer_budgets
from lavakv.eviction.records import Budgets, RankedPrompt
from lavakv.policy import Policy
from lavakv.scoring.window import ScoringWindow
from lavakv.store.base import LayerStore


@dataclass(frozen=True, slots=True)
class PromptPlan:
    """One sequence of the batch.

    Attributes:
        num_tokens: real prompt tokens `N`.
        num_padding: columns of left padding before them.
        tokens_per_head: budget `b`.
        window: window size `w`.
    """

    num_tokens: int
    num_padding: int
    tokens_per_head: int
    window: int

    @property
    def num_evictable(self) -> int:
        """Positions before the window."""
        return max(self.num_tokens - self.window, 0)

    @property
    def keeps_all(self) -> bool:
        """Is the prompt within its budget?"""
        return self.num_tokens <= self.tokens_per_head

    def total(self, num_heads: int) -> int:
        """Entries to keep before the window by this many heads."""
        return (self.num_evictable if self.keeps_all else self.tokens_per_head - self.window) * num_heads


class PromptEviction:
    """Trims layers as later ones become known and ends with what one-shot selection would have kept.

    A layer gets its share of what is known as soon as it is in, so only one is ever held whole. Older layers shrink
    only when the allocation would pass `SLACK` times the total, the one that frees most per copied entry first.

    Attributes:
        prompts: one plan a sequence.
        copied_entries: entries copied so far, gathers and trims together.
        peak_entries: most entries allocated before the window at any time, the layer held whole aside.
    """

    def __init__(
        self, policy: Policy, prompts: Sequence[PromptPlan], stores: Sequence[LayerStore], num_heads: Sequence[int]
    ) -> None:
        self._policy, self.prompts = policy, list(prompts)
        self._stores, self._num_heads = list(stores), list(num_heads)
        self._ranked: list[list[RankedPrompt | None]] = []
        self._totals: list[list[int]] = []
        self._held: list[int] = []
        self.copied_entries = 0
        self.peak_entries = 0

    def add_layer(self, windows: Sequence[ScoringWindow | None]) -> Budgets | None:
        """Take the next layer, whose store already holds the prompt.

        Args:
            windows: for each sequence what to score, or None where it keeps everything.

        Returns:
            What was decided, once the last layer is in.
        """
        self._ranked.append([None if w is None else RankedPrompt.of(self._policy, w) for w in windows])
        self._totals = [self._split(row) for row in range(len(self.prompts))]
        newest = len(self._ranked) - 1
        if newest == len(self._stores) - 1:
            return self._finish()
        self._make_room(newest)
        self._place(newest, final=False)
        return None

    def _split(self, row: int) -> list[int]:
        """Evictable totals of one sequence for the layers known so far."""
        prompt, known = self.prompts[row], len(self._ranked)
        if prompt.keeps_all:
            return [prompt.total(heads) for heads in self._num_heads[:known]]
        total = prompt.total(sum(self._num_heads))
        if self._policy.layer_rule == "equal":  # known beforehand
            weights, heads = torch.tensor(self._num_heads, dtype=torch.float64), self._num_heads
        else:
            weights = torch.tensor([r[row].weight for r in self._ranked], dtype=torch.float64)  # type: ignore[union-attr]
            heads = self._num_heads[:known]
        split: list[int] = layer_budgets(total, weights, heads, prompt.num_evictable)[:known].tolist()
        return split

    def _make_room(self, newcomer: int) -> None:
        """Trim placed layers until `newcomer` fits under the allocation bound."""
        spare = len(self.prompts) * sum(worst_case_spare(heads) for heads in self._num_heads)
        bound = spare + sum(
            int((1.0 if prompt.keeps_all else SLACK) * prompt.total(sum(self._num_heads))) for prompt in self.prompts
        )
        needs = [self._needed(layer) for layer in range(newcomer + 1)]
        while sum(self._held) + needs[newcomer] > bound:
            wasteful = max(range(newcomer), key=lambda layer: self._held[layer] / max(needs[layer], 1))
            if self._held[wasteful] <= needs[wasteful]:
                break
            self._place(wasteful, final=False)
            needs[wasteful] = self._held[wasteful]

    def _needed(self, layer: int) -> int:
        """Upper bound on the entries a layer must keep now, window aside."""
        heads, needed = self._num_heads[layer], 0
        for row, prompt in enumerate(self.prompts):
            spare = 0 if prompt.keeps_all else worst_case_spare(heads)
            needed += min(self._totals[row][layer] + spare, prompt.num_evictable * heads)
        return needed

    def _place(self, layer: int, final: bool) -> None:
        """Give a layer its share: gather it if it is still whole, cut it otherwise."""
        counts = [self._counts(layer, row, final) for row in range(len(self.prompts))]
        held = sum(map(sum, counts))
        if layer == len(self._held):
            self._held.append(0)
            columns = [self._ranked_columns(layer, row) for row in range(len(self.prompts))]
            self._stores[layer].keep(columns, counts, self._tail_columns())
        elif held == self._held[layer]:
            return
        else:
            self._stores[layer].trim(counts)
        self.copied_entries += held
        self._held[layer] = held
        self.peak_entries = max(self.peak_entries, sum(self._held))
        for row, ranked in enumerate(self._ranked[layer]):
            if ranked is not None and not final:
                ranked.forget_beyond(self._totals[row][layer], max(counts[row]))

    def _counts(self, layer: int, row: int, final: bool) -> list[int]:
        """Entries each head of a layer keeps of one sequence: exact at the end, with Webster's spare before."""
        prompt, ranked, heads = self.prompts[row], self._ranked[layer][row], self._num_heads[layer]
        if ranked is None:
            return [prompt.num_evictable] * heads
        total = self._totals[row][layer]
        weights = self._policy.head_weights(ranked.pooled_heads.cpu(), heads, total)
        if final:
            counts = head_budgets(weights, total, prompt.num_evictable)
        else:
            counts = retained_while_trimming(weights, prompt.num_evictable)
        split: list[int] = counts.tolist()
        return split

    def _ranked_columns(self, layer: int, row: int) -> Tensor:
        """Columns before the window by rank, `[H, n]`."""
        ranked, prompt = self._ranked[layer][row], self.prompts[row]
        if ranked is not None:
            return ranked.positions + prompt.num_padding
        first = prompt.num_padding
        return torch.arange(first, first + prompt.num_evictable).expand(self._num_heads[layer], -1)

    def _tail_columns(self) -> int:
        """Columns of the window; a batch of prompts shorter than the window has fewer."""
        columns = self.prompts[0].num_padding + self.prompts[0].num_tokens
        return min(self.prompts[0].window, columns)

    def _finish(self) -> Budgets:
        layers, batch = len(self._stores), len(self.prompts)
        heads = torch.zeros(layers, batch, max(self._num_heads), dtype=torch.int64)
        weights = torch.full((layers, batch), float("nan"), dtype=torch.float64)
        loss = torch.zeros(layers, batch, dtype=torch.float64)
        for layer in range(layers):
            self._place(layer, final=True)
            counts = self._stores[layer].past_counts()
            for row, ranked in enumerate(self._ranked[layer]):
                window = min(self.prompts[row].window, self.prompts[row].num_tokens)
                heads[layer, row, : len(counts[row])] = torch.tensor(counts[row]) + window
                if ranked is not None:
                    weights[layer, row], loss[layer, row] = ranked.weight, ranked.evicted_loss(counts[row])
        return Budgets(heads.sum(dim=2), weights, heads, loss)
