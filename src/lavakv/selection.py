"""The engine-free core: tensors of one sequence in, kept positions out. No transformers, no cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lavakv.budgets.heads import head_budgets
from lavakv.budgets.layers import layer_budgets
from lavakv.budgets.spec import DEFAULT_WINDOW, BudgetSpec
from lavakv.errors import InputError, PolicyError
from lavakv.policy import Policy, get_policy
from lavakv.ranking import rank
from lavakv.scoring.entropy import head_statistics, normalized_entropy
from lavakv.scoring.shapes import require_extras, require_shapes
from lavakv.scoring.window import ScoringWindow


class Selection(NamedTuple):
    """What a prompt keeps, window included.

    Attributes:
        positions: int64 `[layers, heads, most]`, ascending; padded with -1 behind each head's count.
        counts: int64 `[layers, heads]`; 0 for a head that a layer does not have.
    """

    positions: Tensor
    counts: Tensor


def scores(
    policy: str | Policy,
    q_window: Tensor,
    keys: Tensor | Sequence[Tensor],
    values: Tensor | Sequence[Tensor],
    *,
    scaling: float | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
    visible: Tensor | None = None,
    layer: int = 0,
) -> Tensor:
    """Score the evictable entries of one layer of one sequence.

    Args:
        policy: a name from `lavakv.policies()` or a `Policy`.
        q_window: `[query_heads, w, head_dim]`, the prompt's last queries as the attention sees them.
        keys: `[kv_heads, N, head_dim]`, or chunks of it along the tokens.
        values: `[kv_heads, N, value_dim]`, cut like `keys`.
        scaling: factor on query-key products; `head_dim**-0.5` unless given.
        softcap: logit softcap of the model, if it has one.
        sinks: `[query_heads]` attention-sink logits, if the model has them.
        visible: bool `[w, N]`, what the window's queries see, if not simply causal.
        layer: index of the layer.

    Returns:
        float32 `[kv_heads, N - w]`.

    Raises:
        InputError: shapes that do not belong together.
        PolicyError: an unknown policy, or scores that are not finite numbers.
    """
    key_chunks = [keys] if isinstance(keys, Tensor) else list(keys)
    value_chunks = [values] if isinstance(values, Tensor) else list(values)
    require_shapes(q_window, key_chunks, value_chunks)
    require_extras(sinks, visible, q_window, sum(chunk.shape[1] for chunk in key_chunks))
    num_heads = key_chunks[0].shape[0]
    grouped = q_window.reshape(num_heads, -1, *q_window.shape[1:])
    window = ScoringWindow(
        queries=grouped,
        keys=key_chunks,
        values=value_chunks,
        scaling=q_window.shape[-1] ** -0.5 if scaling is None else scaling,
        softcap=softcap,
        sinks=None if sinks is None else sinks.reshape(num_heads, -1),
        visible=visible,
        layer=layer,
    )
    return score_window(get_policy(policy), window)


def score_window(policy: Policy, window: ScoringWindow) -> Tensor:
    """Apply a policy's score and insist on its shape; float32 `[H, n]`."""
    score = policy.score(window)
    expected = (window.queries.shape[0], window.num_evictable)
    if tuple(score.shape) != expected:
        raise PolicyError(
            f"policy {policy.name!r} at layer {window.layer}",
            expected=f"scores of shape {expected}",
            got=str(tuple(score.shape)),
            fix="Return one score per KV head and evictable position.",
        )
    return score.float()


def layer_weight(policy: Policy, score: Tensor, layer: int = 0) -> float:
    """Weight of a layer in the split of the sequence's total: its entropy, or its number of heads.

    Raises:
        PolicyError: scores that are not finite, or below zero where an entropy is asked for; names policy and layer.
    """
    statistics = head_statistics(score).sum(dim=0)
    finite = statistics.isfinite().tolist()
    if not finite[0] or (policy.layer_rule == "entropy" and not finite[1]):
        raise PolicyError(
            f"policy {policy.name!r} at layer {layer}",
            expected="scores of zero or more: an entropy needs them" if finite[0] else "finite scores",
            got="a negative one" if finite[0] else "NaN or infinity",
            fix="Mend the policy's score, or check the model's weights and dtype.",
        )
    if policy.layer_rule == "equal":
        return float(score.shape[0])
    return float(normalized_entropy(statistics, score.numel()))


def select(
    policy: str | Policy, scores: Sequence[Tensor], budget: int = 256, window: int = DEFAULT_WINDOW
) -> Selection:
    """Decide what one sequence keeps when all of its layers' scores are known.

    Args:
        policy: a name from `lavakv.policies()` or a `Policy`.
        scores: one `[kv_heads, n]` a layer, the same `n` in each.
        budget: mean entries a head keeps, window included.
        window: positions behind the `n` scored ones; they are always kept.

    Returns:
        Exactly `budget` times the number of heads positions in all, or everything if the prompt is no longer.

    Raises:
        BudgetError, InputError, PolicyError: a bad budget, scores of unequal length, an unknown policy.
    """
    chosen = get_policy(policy)
    lengths = {score.shape[1] for score in scores}
    if len(lengths) != 1:
        raise InputError(
            "scores", expected="layers of one prompt, equally long", got=f"lengths {sorted(lengths)}", fix="Check them."
        )
    evictable = lengths.pop()
    (tokens_per_head,) = BudgetSpec(budget=budget, window=window).tokens_per_head([evictable + window], 0, 1)
    num_heads = [score.shape[0] for score in scores]
    if evictable + window <= tokens_per_head:
        return _padded([[torch.arange(evictable + window)] * heads for heads in num_heads])
    weights = torch.tensor([layer_weight(chosen, s, i) for i, s in enumerate(scores)], dtype=torch.float64)
    totals = layer_budgets((tokens_per_head - window) * sum(num_heads), weights, num_heads, evictable)
    tail = torch.arange(evictable, evictable + window)
    kept = []
    for score, total in zip(scores, totals.tolist(), strict=True):
        ranking = rank(score)
        counts = head_budgets(chosen.head_weights(ranking.pooled_heads, score.shape[0], total), total, evictable)
        rows = zip(ranking.positions, counts.tolist(), strict=True)
        kept.append([torch.cat([row[:count].sort().values.cpu(), tail]) for row, count in rows])
    return _padded(kept)


def _padded(kept: list[list[Tensor]]) -> Selection:
    widest = max(len(layer) for layer in kept)
    longest = max(len(head) for layer in kept for head in layer)
    positions = torch.full((len(kept), widest, longest), -1, dtype=torch.int64)
    counts = torch.zeros(len(kept), widest, dtype=torch.int64)
    for i, layer in enumerate(kept):
        for h, head in enumerate(layer):
            positions[i, h, : len(head)] = head
            counts[i, h] = len(head)
    return Selection(positions, counts)
