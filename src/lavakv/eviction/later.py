"""A later round: what judges the candidates of layers that are ragged already, and the windows that are scored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lavakv.attention.request import AttentionSettings
from lavakv.budgets.spec import BudgetSpec, Tolerance
from lavakv.errors import InputError, PolicyError
from lavakv.eviction.columns import Columns
from lavakv.eviction.round import Columns as CandidateColumns
from lavakv.eviction.round import Round, Windows
from lavakv.eviction.shares import SequencePlan
from lavakv.eviction.tolerance import sequence_plan
from lavakv.policy.rules import Policy
from lavakv.scoring.window import ScoringWindow
from lavakv.store.base import LayerStore


class Observation(NamedTuple):
    """What judges the candidates of one layer: the last queries of all sequences.

    Attributes:
        queries: `[B, query_heads, w, head_dim]`, those of the last `w` columns, as the attention sees them.
        settings: the model's scaling, softcap and sinks.
        layer: index of the layer in the model, for messages.
        output_weight: `[query_heads, value_dim, hidden]`, the output projection, or None where it is not known.
        residual_norms: float32 `[B, w]`, norms of the residual stream that the queries were made from, or None.
    """

    queries: Tensor
    settings: AttentionSettings
    layer: int = 0
    output_weight: Tensor | None = None
    residual_norms: Tensor | None = None


def later_plans(
    columns: Columns, budgets: Sequence[tuple[Policy, int | Tolerance]], window: int, protect: range = range(0)
) -> list[SequencePlan]:
    """What is known of each sequence before a later round.

    Args:
        columns: what is known of each column.
        budgets: policy and mean entries per head, window included, of each sequence; or a tolerance to find them by.
        window: columns at the end that all heads keep.
        protect: original positions that every head keeps, as it has in all rounds before.

    Raises:
        InputError: not one budget a sequence.
        BudgetError: one that does not exceed the window though more tokens were seen.
        PolicyError: a policy that judges whole prompts only.
    """
    tokens, padding = columns.tokens_and_padding()
    if len(budgets) != len(tokens):
        raise InputError(
            "budgets", expected=f"one for each of {len(tokens)} sequences", got=str(len(budgets)),
            fix="Pass policy and budget of every sequence.",
        )  # fmt: skip
    for num_tokens, (policy, budget) in zip(tokens, budgets, strict=True):
        if policy.prompt_only:
            raise PolicyError(
                f"policy {policy.name!r}", expected="a policy that scores what an earlier round has left",
                got="one that judges all rows of a whole prompt", fix="Use another policy here.",
            )  # fmt: skip
        if not isinstance(budget, Tolerance):
            BudgetSpec(budget=budget, window=window).tokens_per_head([num_tokens], 0, 1)
    rows = zip(tokens, padding, budgets, strict=True)
    return [sequence_plan(n, left, b, window, policy, protect) for n, left, (policy, b) in rows]


def padding_in_window(window: int) -> InputError:
    """The error for padding among the last columns of a sequence that evicts."""
    return InputError(
        "columns", expected=f"tokens in the last {window} columns of each sequence that evicts",
        got="padding among them", fix="Pad further turns on the left, or evict before padding comes behind the tokens.",
    )  # fmt: skip


def over_budget(tokens: Sequence[int], budgets: Sequence[int | Tolerance]) -> list[int]:
    """The sequences that have seen more tokens than their budgets, or whose budgets are still to be found."""
    pairs = enumerate(zip(tokens, budgets, strict=True))
    return [row for row, (seen, budget) in pairs if isinstance(budget, Tolerance) or seen > budget]


class LaterRound:
    """A round over stores whose heads hold unequally many entries, all layers at hand.

    Candidates are what the past of a head holds and what its tail holds before the window, padding left out.

    Args:
        plans: one a sequence, with a window that the tail holds.
        stores: one a layer, all with the same columns.
        columns: what is known of each column.
    """

    def __init__(self, plans: Sequence[SequencePlan], stores: Sequence[LayerStore], columns: Columns) -> None:
        self._plans, self._stores, self._columns = list(plans), list(stores), columns
        store = stores[0]
        self._window = plans[0].window
        first, last = store.num_columns - store.tail_length, store.num_columns - self._window
        self._due = [columns.real_between(row, first, last) for row in range(len(plans))]
        counts = [one.past_counts() for one in stores]
        caps = [
            [torch.tensor(layer[row], device="cpu") + len(due) for layer in counts] for row, due in enumerate(self._due)
        ]
        heads, in_window = [one.num_heads for one in stores], [self._window] * len(plans)
        if columns.any_padding:
            in_window = columns.real[:, last:].sum(dim=1).tolist()
        self.round = Round(plans, stores, heads, caps=caps, window_tokens=in_window)
        self._check_window(last)

    def _check_window(self, first: int) -> None:
        """Check that the window of each sequence whose candidates compete holds tokens only.

        Raises:
            InputError: padding among the last columns.
        """
        if not self._columns.any_padding:
            return
        rows = [row for row in range(len(self._plans)) if not self.round.shares.keeps_all(row)]
        if not bool(self._columns.real[rows, first:].all()):
            raise padding_in_window(self._window)

    def layers(self, observations: Sequence[Observation]) -> Iterator[tuple[Windows, CandidateColumns]]:
        """For each layer what `Round.add_all` takes, made lazily.

        Raises:
            InputError: not one observation a layer, or one without the queries of the whole window.
        """
        rows = [observed.queries.shape[2] for observed in observations]
        if len(rows) != len(self._stores) or min(rows) < self._window:
            raise InputError(
                "observations",
                expected=f"the last {self._window} queries of each of {len(self._stores)} layers",
                got=f"{rows} queries",
                fix="Pass one observation a layer, with the queries of the whole window.",
            )
        for index, (store, observed) in enumerate(zip(self._stores, observations, strict=True)):
            found = [self._candidates(store, index, row, observed) for row in range(len(self._plans))]
            yield [window for window, _ in found], [columns for _, columns in found]

    def _candidates(
        self, store: LayerStore, layer: int, row: int, observed: Observation
    ) -> tuple[ScoringWindow | None, Tensor]:
        """What to score of one sequence in one layer, and the column of each candidate, `[H, n]`."""
        keys, values, columns, caps = store.candidates(row, self._due[row].to(store.device), self._window)
        if self.round.shares.keeps_all(row):
            return None, columns
        heads, (scaling, softcap, sinks) = store.num_heads, observed.settings
        weight, norms = observed.output_weight, observed.residual_norms
        window = ScoringWindow(
            queries=_by_kv_head(observed.queries[row], heads)[:, :, -self._window :],
            keys=[keys],
            values=[values],
            scaling=scaling,
            softcap=softcap,
            sinks=None if sinks is None else sinks.view(heads, -1),
            layer=observed.layer,
            tokens_per_head=self._plans[row].scored_for,
            output_weight=None if weight is None else _by_kv_head(weight, heads),
            residual_norms=None if norms is None else norms[row, -self._window :],
            caps=torch.tensor(caps, device="cpu").to(store.device, non_blocking=True),
            positions=self._columns.original_positions(row, columns),
            protected=self._plans[row].protected,
        )
        return window, columns


def _by_kv_head(per_query_head: Tensor, heads: int) -> Tensor:
    """`[query_heads, ...]` to `[H, G, ...]`."""
    return per_query_head.reshape(heads, -1, *per_query_head.shape[1:])
