"""What one sequence keeps when all of its layers' scores are known."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lavakv.budgets.spec import DEFAULT_WINDOW, BudgetSpec
from lavakv.errors import InputError, PolicyError
from lavakv.policy.numbers import PackedReadback, checked_weight, score_numbers
from lavakv.policy.registry import get_policy
from lavakv.policy.rules import Policy
from lavakv.scoring.shapes import require_caps
from lavakv.scoring.tiers import TieredScores
from lavakv.selection.allocation import allocate
from lavakv.selection.kept import Selection
from lavakv.selection.ranking import Ranking, rank


def select(
    policy: str | Policy,
    scores: Sequence[Tensor | TieredScores],
    budget: int = 256,
    window: int = DEFAULT_WINDOW,
    *,
    layer_weights: Sequence[float] | None = None,
    caps: Sequence[Tensor] | None = None,
) -> Selection:
    """Decide what one sequence keeps when all of its layers' scores are known. Each layer is read back once.

    Args:
        policy: a name from `lavakv.policies()` or a `Policy`.
        scores: what `scores` returned for each layer: `[kv_heads, n]`, the same `n` in each unless `caps` are given.
        budget: mean entries a head keeps, window included.
        window: positions behind the `n` scored ones; they are always kept.
        layer_weights: weight of each layer, for policies whose layer rule is a function of their own.
        caps: for each layer int64 `[kv_heads]` on the CPU, where heads hold unequally many candidates: those of head
            `h` are in the first `caps[h]` of its `n` places, the others are empty and not read. Kept positions are
            then places, the window's the last ones of the row.

    Returns:
        Exactly `budget` times the number of heads positions in all, or everything if there are no more.

    Raises:
        BudgetError, InputError, PolicyError: a bad budget, scores of unequal length, an unknown policy.
    """
    chosen = get_policy(policy)
    values = [score.values if isinstance(score, TieredScores) else score for score in scores]
    candidates = require_caps(values, caps)
    longest = max(int(layer.max()) for layer in candidates)
    (tokens_per_head,) = BudgetSpec(budget=budget, window=window).tokens_per_head([longest + window], 0, 1)
    mean_entries = tokens_per_head - window
    if sum(int(layer.sum()) for layer in candidates) <= mean_entries * sum(len(layer) for layer in candidates):
        in_order = [torch.arange(score.shape[1], device=score.device).expand(score.shape) for score in values]
        return Selection.of(in_order, [layer.tolist() for layer in candidates], window)
    _require_weights(chosen, layer_weights, len(scores))
    least = chosen.min_entries_per_head(tokens_per_head, window)
    allocation = allocate(chosen, mean_entries, candidates)
    most = mean_entries * sum(len(layer) for layer in candidates)
    layers = [_FetchedLayer(chosen, score, least, own, most) for score, own in zip(scores, candidates, strict=True)]
    for layer, one in enumerate(layers):
        ranking, weight = one.on_host(layer)
        allocation.add(ranking, weight if layer_weights is None else layer_weights[layer])
    return Selection.of([one.ranking.positions for one in layers], allocation.final_counts(), window)


class _FetchedLayer:
    """A ranked layer, and what the host must know of it on its way there.

    Args:
        policy: whose rules say what that is.
        score: of the layer's candidates.
        min_entries_per_head: see `rank`.
        caps: candidates of each head.
        max_entries: entries that all layers keep together; no layer keeps more.
    """

    def __init__(
        self, policy: Policy, score: Tensor | TieredScores, min_entries_per_head: int, caps: Tensor, max_entries: int
    ) -> None:
        values = score.values if isinstance(score, TieredScores) else score
        is_full = int(caps.sum()) == values.numel()
        self._policy, self.ranking = policy, rank(score, min_entries_per_head, None if is_full else caps)
        held = None if is_full else caps.to(values.device, non_blocking=True)
        _, heads, scores, tiers = self.ranking
        needed = [score_numbers(policy, values, held)]
        if policy.layer_rule == "pool":
            needed += [part[:max_entries] for part in (scores.float(), heads, tiers) if part is not None]
        elif policy.head_rule == "pooled":
            needed.append(heads[:max_entries])
        self._fetched = PackedReadback(needed)

    def on_host(self, layer: int) -> tuple[Ranking, float]:
        """The ranking as far as the allocation needs it, and the layer's weight; waits for them.

        Raises:
            PolicyError: scores that cannot be compared; names policy and layer.
        """
        numbers, *pooled = self._fetched.get()
        weight = checked_weight(self._policy, layer, [1.0, *numbers.tolist()])
        if self._policy.layer_rule == "pool":
            scores, heads, *tiers = pooled
            return Ranking(self.ranking.positions, heads, scores, *tiers), weight
        return self.ranking._replace(pooled_heads=pooled[0] if pooled else self.ranking.pooled_heads[:0]), weight


def _require_weights(policy: Policy, layer_weights: Sequence[float] | None, num_layers: int) -> None:
    if callable(policy.layer_rule) and layer_weights is None:
        raise PolicyError(
            f"policy {policy.name!r}",
            expected="layer_weights, which its layer rule makes from each layer's window",
            got="none",
            fix="Pass one weight a layer.",
        )
    weights = [0.0] * num_layers if layer_weights is None else layer_weights
    if len(weights) != num_layers or not all(0.0 <= weight < float("inf") for weight in weights):
        raise InputError(
            "layer_weights",
            expected=f"{num_layers} finite numbers of zero or more",
            got=repr(layer_weights),
            fix="Pass one weight a layer.",
        )
