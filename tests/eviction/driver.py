"""Drives `Round` the way an engine does: layer after layer, each one's store holding its prompt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lavakv.eviction.records import Budgets
from lavakv.eviction.round import Round
from lavakv.eviction.shares import SequencePlan
from lavakv.scoring.window import ScoringWindow
from lavakv.selection.kept import Selection
from lavakv.selection.select import select
from lavakv.store.base import LayerStore
from lavakv.store.masked import MaskedStore
from lavakv.store.ragged import RaggedStore
from tests.eviction.controlled import CONTROLLED, controlled_scores, controlled_weights

DIM = 2


@dataclass
class Prefill:
    """A batch of left-padded prompts: for each layer scores `[H, N]` a sequence.

    Attributes:
        policy: name of a policy in `CONTROLLED`.
        layers: `[layers][batch]` tensors `[H_l, N_b]`; the last `window` columns are not scored.
        budgets: budget of each sequence.
        window: window size.
    """

    policy: str
    layers: list[list[Tensor]]
    budgets: list[int]
    window: int
    stores: list[LayerStore] = field(default_factory=list)
    most_entries: int = 0

    @property
    def plans(self) -> list[SequencePlan]:
        lengths = [row.shape[1] for row in self.layers[0]]
        rows = zip(lengths, self.budgets, strict=True)
        return [
            SequencePlan(length, max(lengths) - length, budget, self.window, CONTROLLED[self.policy])
            for length, budget in rows
        ]

    @property
    def num_heads(self) -> list[int]:
        return [layer[0].shape[0] for layer in self.layers]

    def columns(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values `[B, H, columns, DIM]`, NaN where there is padding."""
        width = max(row.shape[1] for row in self.layers[layer])
        keys = torch.full((len(self.budgets), self.num_heads[layer], width, DIM), torch.nan)
        for row, score in enumerate(self.layers[layer]):
            keys[row, :, width - score.shape[1] :] = score[..., None]
        return keys, keys + 0.5

    def run(self, store: type[RaggedStore] | type[MaskedStore]) -> tuple[Round, Budgets]:
        """Prefill all layers; records the most entries held at any time."""
        self.stores = [store() for _ in self.layers]
        eviction = Round(self.plans, self.stores, self.num_heads)
        budgets = None
        for layer, one in enumerate(self.stores):
            keys, values = self.columns(layer)
            windows = [self._window(keys[row], values[row], row, layer) for row in range(len(self.budgets))]
            one.hold(keys, values)
            self.most_entries = max(self.most_entries, self.entries())  # before the layer gets its share
            budgets = eviction.add_layer(windows)
            self.most_entries = max(self.most_entries, self.entries())
        assert budgets is not None
        return eviction, budgets

    def run_at_once(self, store: type[RaggedStore] | type[MaskedStore]) -> tuple[Round, Budgets]:
        """The same with all layers known beforehand."""
        self.stores = [store() for _ in self.layers]
        eviction = Round(self.plans, self.stores, self.num_heads)
        windows = []
        for layer, one in enumerate(self.stores):
            keys, values = self.columns(layer)
            one.hold(keys, values)
            windows.append([self._window(keys[row], values[row], row, layer) for row in range(len(self.budgets))])
        return eviction, eviction.add_all((own, None) for own in windows)

    def entries(self) -> int:
        """Entries allocated by all stores."""
        return sum(store.nbytes for store in self.stores) // (2 * DIM * 4)

    def one_shot(self, row: int) -> Selection:
        """What `select` keeps of one sequence."""
        window = min(self.window, self.plans[row].num_tokens)
        scores = [layer[row][:, : layer[row].shape[1] - window] for layer in self.layers]
        policy = CONTROLLED[self.policy]
        controlled = [controlled_scores(policy, layer) for layer in scores]
        weights = controlled_weights(policy, scores) if scores[0].numel() else None
        return select(policy, controlled, self.budgets[row], window, layer_weights=weights)

    def kept(self, layer: int, row: int, head: int) -> list[int]:
        """Positions a store holds of the prompt, window included."""
        padding, store = self.plans[row].num_padding, self.stores[layer]
        width = padding + self.plans[row].num_tokens
        past = (store.past_columns(row, head) - padding).tolist()
        return past + [column - padding for column in range(width - store.tail_length, width) if column >= padding]

    def _window(self, keys: Tensor, values: Tensor, row: int, layer: int) -> ScoringWindow | None:
        plan = self.plans[row]
        if plan.keeps_all:
            return None
        keys, values = keys[:, plan.num_padding :], values[:, plan.num_padding :]
        queries = keys[:, None, plan.num_tokens - plan.window :]
        return ScoringWindow(queries, [keys], [values], scaling=0.1, layer=layer)


def realistic_layers(
    num_layers: int, num_heads: int, num_tokens: int, seed: int, shape: Callable[[int], float] = lambda _: 1.0
) -> list[list[Tensor]]:
    """One sequence's log-normal scores, some layers flat, some peaked, as attention is.

    Args:
        num_layers: layers.
        num_heads: KV heads of each.
        num_tokens: prompt tokens.
        seed: of the noise.
        shape: factor on each layer's spread.
    """
    generator = torch.Generator().manual_seed(seed)
    layers = []
    for layer in range(num_layers):
        spread = shape(layer) * (0.5 + 2.5 * torch.rand((), generator=generator))
        noise = torch.randn(num_heads, num_tokens, generator=generator)
        layers.append([torch.exp(spread * noise + torch.randn(num_heads, 1, generator=generator))])
    return layers
