"""The engine-free core: tensors of one sequence in, kept positions out. No transformers, no cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lavakv.allocation import allocate, prompt_caps
from lavakv.apply import policy_scores
from lavakv.budgets.spec import DEFAULT_WINDOW, BudgetSpec
from lavakv.errors import InputError, PolicyError
from lavakv.layer_numbers import score_weight
from lavakv.policy import Policy
from lavakv.ranking import rank
from lavakv.registry import get_policy
from lavakv.scoring.prompt import PromptRows
from lavakv.scoring.shapes import require_extras, require_residual, require_shapes, require_whole
from lavakv.scoring.tiers import TieredScores
from lavakv.scoring.window import ScoringWindow


class Selection(NamedTuple):
    """What a prompt keeps, window included; on the CPU, wherever the scores are.

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
    tokens_per_head: int | None = None,
    output_weight: Tensor | None = None,
    prompt_queries: Tensor | None = None,
    residual_norms: Tensor | None = None,
) -> Tensor | TieredScores:
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
        tokens_per_head: the budget `b`, for policies in two stages.
        output_weight: `[query_heads, value_dim, hidden]`, the output projection, for policies that project values.
        prompt_queries: `[query_heads, N, head_dim]`, all of the prompt's queries, for policies that look beyond the
            window; they are taken to be causal.
        residual_norms: `[w]`, L2 norms of the hidden states that the window's queries were made from, before the
            layer's norm, for policies that compare layers by them.

    Returns:
        float32 `[kv_heads, N - w]`, or such values with a mask of what is kept outright; without gradients.

    Raises:
        InputError: shapes that do not belong together.
        BudgetError: a budget that does not exceed the window though the prompt is longer.
        PolicyError: an unknown policy, one that needs what is not given, or scores that are not finite numbers.
    """
    key_chunks = [keys] if isinstance(keys, Tensor) else list(keys)
    value_chunks = [values] if isinstance(values, Tensor) else list(values)
    require_shapes(q_window, key_chunks, value_chunks)
    num_tokens = sum(chunk.shape[1] for chunk in key_chunks)
    require_extras(sinks, visible, q_window, num_tokens)
    require_whole(output_weight, prompt_queries, q_window, num_tokens, value_chunks[0].shape[2])
    require_residual(residual_norms, q_window.shape[1])
    if tokens_per_head is not None:
        BudgetSpec(budget=tokens_per_head, window=q_window.shape[1]).tokens_per_head([num_tokens], 0, 1)
    num_heads = key_chunks[0].shape[0]
    window = ScoringWindow(
        queries=_grouped(q_window, num_heads),
        keys=key_chunks,
        values=value_chunks,
        scaling=q_window.shape[-1] ** -0.5 if scaling is None else scaling,
        softcap=softcap,
        sinks=None if sinks is None else sinks.reshape(num_heads, -1),
        visible=visible,
        layer=layer,
        tokens_per_head=tokens_per_head,
        output_weight=None if output_weight is None else _grouped(output_weight, num_heads),
        prompt=None if prompt_queries is None else PromptRows(_grouped(prompt_queries, num_heads)),
        residual_norms=None if residual_norms is None else residual_norms.float(),
    )
    with torch.no_grad():
        return policy_scores(get_policy(policy), window)


def select(
    policy: str | Policy,
    scores: Sequence[Tensor | TieredScores],
    budget: int = 256,
    window: int = DEFAULT_WINDOW,
    *,
    layer_weights: Sequence[float] | None = None,
) -> Selection:
    """Decide what one sequence keeps when all of its layers' scores are known.

    Args:
        policy: a name from `lavakv.policies()` or a `Policy`.
        scores: what `scores` returned for each layer: `[kv_heads, n]`, the same `n` in each.
        budget: mean entries a head keeps, window included.
        window: positions behind the `n` scored ones; they are always kept.
        layer_weights: weight of each layer, for policies whose layer rule is a function of their own.

    Returns:
        Exactly `budget` times the number of heads positions in all, or everything if the prompt is no longer.

    Raises:
        BudgetError, InputError, PolicyError: a bad budget, scores of unequal length, an unknown policy.
    """
    chosen = get_policy(policy)
    values = [score.values if isinstance(score, TieredScores) else score for score in scores]
    evictable = _common_length(values)
    (tokens_per_head,) = BudgetSpec(budget=budget, window=window).tokens_per_head([evictable + window], 0, 1)
    num_heads = [score.shape[0] for score in values]
    if evictable + window <= tokens_per_head:
        return _padded([[torch.arange(evictable + window, device="cpu")] * heads for heads in num_heads])
    if callable(chosen.layer_rule) and layer_weights is None:
        raise PolicyError(
            f"policy {chosen.name!r}",
            expected="layer_weights, which its layer rule makes from each layer's window",
            got="none",
            fix="Pass one weight a layer.",
        )
    _require_weights(layer_weights, len(scores))
    allocation = allocate(chosen, tokens_per_head - window, prompt_caps(num_heads, evictable))
    rankings = [rank(score, chosen.min_entries_per_head(tokens_per_head, window)) for score in scores]
    for layer, ranking in enumerate(rankings):
        weight = score_weight(chosen, values[layer], layer)
        allocation.add(ranking, weight if layer_weights is None else layer_weights[layer])
    tail = torch.arange(evictable, evictable + window, device="cpu")
    kept = []
    for layer, ranking in enumerate(rankings):
        rows = zip(ranking.positions, allocation.counts(layer, final=True).tolist(), strict=True)
        kept.append([torch.cat([row[:count].sort().values.cpu(), tail]) for row, count in rows])
    return _padded(kept)


def _grouped(per_query_head: Tensor, num_heads: int) -> Tensor:
    """`[query_heads, ...]` to `[H, G, ...]`."""
    return per_query_head.reshape(num_heads, -1, *per_query_head.shape[1:])


def _require_weights(layer_weights: Sequence[float] | None, num_layers: int) -> None:
    weights = [0.0] * num_layers if layer_weights is None else layer_weights
    if len(weights) != num_layers or not all(0.0 <= weight < float("inf") for weight in weights):
        raise InputError(
            "layer_weights",
            expected=f"{num_layers} finite numbers of zero or more",
            got=repr(layer_weights),
            fix="Pass one weight a layer.",
        )


def _common_length(scores: Sequence[Tensor]) -> int:
    shapes = [tuple(score.shape) for score in scores]
    if not shapes or any(len(shape) != 2 for shape in shapes) or len({shape[1] for shape in shapes}) != 1:
        raise InputError(
            "scores",
            expected="[kv_heads, n] for each layer of one prompt, equally long",
            got=", ".join(map(str, shapes)) or "none",
            fix="Pass what `lavakv.scores` returned for every layer.",
        )
    return int(shapes[0][1])


def _padded(kept: list[list[Tensor]]) -> Selection:
    widest = max(len(layer) for layer in kept)
    longest = max(len(head) for layer in kept for head in layer)
    positions = torch.full((len(kept), widest, longest), -1, dtype=torch.int64, device="cpu")
    counts = torch.zeros(len(kept), widest, dtype=torch.int64, device="cpu")
    for i, layer in enumerate(kept):
        for h, head in enumerate(layer):
            positions[i, h, : len(head)] = head
            counts[i, h] = len(head)
    return Selection(positions, counts)
