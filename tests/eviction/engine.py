"""A small engine that drives a session: made-up queries, keys and values in place of a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lavakv.attention import AttentionSettings
from lavakv.eviction.later import Observation
from lavakv.eviction.records import Budgets
from lavakv.eviction.session import Session
from lavakv.eviction.shares import SequencePlan
from lavakv.policy.rules import Policy
from lavakv.scoring.prompt import PromptRows
from lavakv.scoring.window import ScoringWindow
from lavakv.store.base import LayerStore
from lavakv.store.ragged import RaggedStore

DIM, VALUE_DIM, GROUP, HIDDEN = 4, 3, 2, 5


@dataclass
class Engine:
    """Reads columns of a batch into a session, with one policy and budget for all sequences.

    Attributes:
        policy: decides.
        num_heads: KV heads of each layer.
        budget: mean entries per head, window included.
        window: window size.
        padding: columns of left padding of each sequence.
        seed: of what is made up for a layer and column; the same whatever the store.
        store: makes a store.
        order: for each layer the heads in another order than they are made in, or None.
        protect: original positions that every head keeps.
    """

    policy: Policy
    num_heads: list[int]
    budget: int
    window: int
    padding: list[int]
    seed: int = 0
    store: Callable[[], LayerStore] = RaggedStore
    order: list[list[int]] | None = None
    protect: range = range(0)
    session: Session = field(init=False)
    num_columns: int = 0

    def __post_init__(self) -> None:
        self.session = Session([self.store() for _ in self.num_heads], self.num_heads)

    def read(self, num_columns: int, budget: int | None = None) -> None:
        """One forward: the prompt if it is the first, else more columns."""
        first, self.num_columns = self.num_columns, self.num_columns + num_columns
        batch = len(self.padding)
        columns = torch.arange(first, self.num_columns).expand(batch, -1)
        real = columns >= torch.tensor(self.padding)[:, None]
        self.session.begin(real, all_real=not any(self.padding), tokens=columns)
        if first:
            for layer, store in enumerate(self.session.stores):
                store.append(*(part[:, :, first:] for part in self.made_up(layer)[1:3]))
        else:
            self._prompt(self.budget if budget is None else budget)
        self.session.end(succeeded=True)

    def evict(self, budget: int | None = None, policy: Policy | None = None) -> Budgets:
        """A later round."""
        rows = [(policy or self.policy, self.budget if budget is None else budget)] * len(self.padding)
        return self.session.evict(self.observations(), rows, self.window, self.protect)

    def observations(self) -> list[Observation]:
        """What judges: the last queries of each layer."""
        found = []
        for layer in range(len(self.num_heads)):
            queries, _, _, weight, norms = self.made_up(layer)
            last = max(self.num_columns - self.window, 0)
            settings = AttentionSettings(0.4)
            found.append(Observation(queries[:, :, last:], settings, layer, weight, norms[:, last:]))
        return found

    def made_up(self, layer: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Queries, keys, values, output projection and norms of the residual stream of all columns so far."""
        batch, heads = len(self.padding), self.num_heads[layer]
        generator = torch.Generator().manual_seed(self.seed * 1000 + layer)
        weight = torch.randn(heads, GROUP, VALUE_DIM, HIDDEN, generator=generator)
        parts = []
        for column in range(self.num_columns):
            generator = torch.Generator().manual_seed((self.seed * 1000 + layer) * 1000 + column)
            query = torch.randn(batch, heads, GROUP, DIM, generator=generator)
            key, value = (torch.randn(batch, heads, dim, generator=generator) for dim in (DIM, VALUE_DIM))
            parts.append((2 * query, key, value, torch.rand(batch, generator=generator) + 0.5))
        queries, keys, values, norms = (torch.stack(part, dim=-1) for part in zip(*parts, strict=True))
        if self.order is not None:
            order = self.order[layer]
            queries, keys, values, weight = queries[:, order], keys[:, order], values[:, order], weight[order]
        queries = queries.flatten(1, 2).movedim(-1, 2)
        return queries, keys.movedim(-1, 2), values.movedim(-1, 2), weight.flatten(0, 1), norms

    def kept(self) -> list[list[list[list[int]]]]:
        """Kept positions, `[layers][B][H]`."""
        return [
            [
                [self.session.kept_positions(layer, row, head).tolist() for head in range(heads)]
                for row in range(len(self.padding))
            ]
            for layer, heads in enumerate(self.num_heads)
        ]

    def _prompt(self, budget: int) -> None:
        plans = [
            SequencePlan(self.num_columns - padding, padding, budget, self.window, self.policy, self.protect)
            for padding in self.padding
        ]
        self.session.plan(plans)
        for layer in range(len(self.num_heads)):
            self.session.take(*self.made_up(layer)[1:3], self.windows(layer, plans))

    def windows(self, layer: int, plans: Sequence[SequencePlan]) -> list[ScoringWindow | None]:
        """What a prompt's scores look at."""
        queries, keys, values, weight, norms = self.made_up(layer)
        heads = self.num_heads[layer]
        windows: list[ScoringWindow | None] = []
        for row, plan in enumerate(plans):
            own = queries[row].unflatten(0, (heads, GROUP))[:, :, plan.num_padding :]
            window = ScoringWindow(
                own[:, :, max(plan.num_tokens - plan.window, 0) :],
                [keys[row, :, plan.num_padding :]],
                [values[row, :, plan.num_padding :]],
                0.4,
                layer=layer,
                tokens_per_head=plan.tokens_per_head,
                output_weight=weight.unflatten(0, (heads, GROUP)),
                prompt=PromptRows(own),
                residual_norms=norms[row, max(self.num_columns - plan.window, 0) :],
                protected=plan.protected,
            )
            windows.append(None if plan.keeps_all else window)
        return windows
