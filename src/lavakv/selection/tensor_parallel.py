"""One layer's heads on several ranks: what the ranks exchange so that each keeps what a single rank would keep.

A rank scores and ranks the heads it holds (`apply.score_layer`, `ranking.rank`). It sends two things of every layer:

1. `partial_statistics(policy, values, caps)`, a row a head. `merged_weight` makes the layer's weight from all rows.
2. `candidates(ranking, heads, max_entries)`. `merge_candidates` makes the order of the whole layer from all of them.
   Once all weights are there, `layer_max_entries` says how few of each layer have to be sent.

`head_counts` then says on every rank what each head of each layer keeps, and `kept_positions(ranking.positions,
counts_of_own_heads, window)` which positions these are. All of it is exact: weights, counts and positions equal those
of one rank to the bit, whatever the heads are split into. Scores must be those of a single rank as well: check
`require_separate_heads`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lavakv.errors import InputError, PolicyError
from lavakv.policy.numbers import checked_weight, summed_numbers
from lavakv.policy.numbers import partial_statistics as _partial_statistics
from lavakv.policy.rules import Policy
from lavakv.selection.allocation import allocate
from lavakv.selection.candidates import Candidates, candidates, cut_to_pool, merge_candidates
from lavakv.selection.kept import kept_positions
from lavakv.selection.ranking import Ranking

__all__ = [
    "Candidates",
    "candidates",
    "cut_to_pool",
    "head_counts",
    "kept_positions",
    "layer_max_entries",
    "merge_candidates",
    "merged_weight",
    "partial_statistics",
    "require_separate_heads",
]


def require_separate_heads(policy: Policy) -> None:
    """Check that ranks can score their heads on their own.

    Raises:
        PolicyError: the policy's score of a head depends on the layer's other heads.
    """
    if policy.across_heads:
        raise PolicyError(
            f"policy {policy.name!r}",
            expected="a score of each head by itself, so that ranks can score theirs alone",
            got=policy.across_heads,
            fix="Use another policy, or score the heads of all ranks together.",
        )


def partial_statistics(policy: Policy, values: Tensor, caps: Tensor | None = None) -> Tensor:
    """A layer's statistics, a row for each head that this rank holds; ranks gather them in the order of the heads.

    Args:
        policy: whose layer rule to follow.
        values: `[H, n]`, scores of this rank's heads.
        caps: int64 `[H]`, candidates of each, where the values are; None where every place holds one.

    Returns:
        float64 `[H, 1 or 2]`, where the values are.

    Raises:
        PolicyError: a layer rule that is a function of its own, whose weight is no sum over heads.
    """
    _require_summed(policy)
    return _partial_statistics(policy, values, caps)


def merged_weight(
    policy: Policy, statistics: Tensor, num_places: int, caps: Tensor | None = None, layer: int = 0
) -> float:
    """The weight of a layer, equal to the bit to that of one rank that holds all heads; waits for it.

    Args:
        policy: whose layer rule to follow.
        statistics: `partial_statistics` of all ranks, a row a head in the order of the heads.
        num_places: places `n` that a head has before the window.
        caps: int64 `[H]`, candidates of each head of the layer; None where every place holds one.
        layer: index of the layer, for messages.

    Raises:
        PolicyError: scores that are not finite, or below zero for an entropy; or a layer rule that is a
            function of its own.
        InputError: statistics or caps of another shape.
    """
    _require_summed(policy)
    columns = 2 if policy.layer_rule == "entropy" else 1
    if statistics.ndim != 2 or statistics.shape[1] != columns or not len(statistics):
        raise InputError(
            "statistics",
            expected=f"a row a head of the layer, shape [heads, {columns}]",
            got=str(tuple(statistics.shape)),
            fix="Join what `partial_statistics` returned on every rank, in the order of the heads.",
        )
    if caps is not None and tuple(caps.shape) != (len(statistics),):
        raise InputError(
            "caps",
            expected=f"one number a head of the layer, shape ({len(statistics)},)",
            got=str(tuple(caps.shape)),
            fix="Join the caps of every rank, in the order of the heads.",
        )
    held = None if caps is None else caps.to(statistics.device)
    numbers = summed_numbers(policy, statistics, num_places * len(statistics), held)
    return checked_weight(policy, layer, [1.0, *numbers.tolist()])


def layer_max_entries(policy: Policy, weights: Sequence[float], caps: Sequence[Tensor], mean_entries: int) -> list[int]:
    """How many candidates of each layer can matter once all weights are merged: what to give `candidates`.

    Args:
        policy: whose rules to follow.
        weights: `merged_weight` of each layer.
        caps: for each layer int64 `[H]` on the CPU, candidates of each head.
        mean_entries: mean entries a head keeps before the window, `budget - window`.

    Returns:
        For each layer its share of the total, or a few more; 0 where heads do not compete; the total of all layers
        where layers compete as well (see `cut_to_pool`).

    Raises:
        InputError: not as many weights as caps.
    """
    _require_as_many(weights, caps)
    if policy.layer_rule == "pool":
        return [mean_entries * sum(map(len, caps))] * len(caps)
    if policy.head_rule == "equal":
        return [0] * len(caps)
    allocation, nothing = allocate(policy, mean_entries, caps), torch.zeros(0, dtype=torch.int16, device="cpu")
    for weight in weights:
        allocation.add(Ranking(nothing, nothing, nothing), weight)
    return [allocation.most(layer) for layer in range(len(caps))]


def head_counts(
    policy: Policy,
    layers: Sequence[Candidates],
    weights: Sequence[float],
    caps: Sequence[Tensor],
    mean_entries: int,
) -> list[list[int]]:
    """Entries that each head of each layer keeps, windows excluded; the same on every rank, and as on a single one.

    Args:
        policy: whose rules to follow.
        layers: `merge_candidates` of each layer.
        weights: `merged_weight` of each layer.
        caps: for each layer int64 `[H]` on the CPU, candidates of each head.
        mean_entries: mean entries a head keeps before the window, `budget - window`.

    Raises:
        InputError: not as many weights and caps as layers.
    """
    _require_as_many(layers, weights, caps)
    if sum(int(own.sum()) for own in caps) <= mean_entries * sum(map(len, caps)):
        return [own.tolist() for own in caps]
    allocation = allocate(policy, mean_entries, caps)
    for layer, weight in zip(layers, weights, strict=True):
        allocation.add(Ranking(layer.heads.new_empty(0), *layer), weight)
    return allocation.final_counts()


def _require_summed(policy: Policy) -> None:
    if callable(policy.layer_rule):
        raise PolicyError(
            f"policy {policy.name!r}",
            expected="a layer weight that follows from sums over heads",
            got="a layer rule that is a function of the whole layer",
            fix="Use a policy with a named layer rule, or work the weight out where all heads are.",
        )


def _require_as_many(*lists: Sequence[object]) -> None:
    if len({len(each) for each in lists}) > 1 or not lists[0]:
        raise InputError(
            "layers, weights, caps",
            expected="one of each a layer",
            got=" and ".join(str(len(each)) for each in lists),
            fix="Pass what was merged for every layer.",
        )
