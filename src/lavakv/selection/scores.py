"""Scores of one layer of one sequence, from plain tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lavakv.budgets.spec import BudgetSpec
from lavakv.policy.apply import policy_scores
from lavakv.policy.registry import get_policy
from lavakv.policy.rules import Policy
from lavakv.scoring.prompt import PromptRows, ReplayMaxima
from lavakv.scoring.rotation import Rotation
from lavakv.scoring.shapes import (
    require_extras,
    require_replay,
    require_residual,
    require_rotation,
    require_shapes,
    require_whole,
)  # fmt: skip
from lavakv.scoring.tiers import TieredScores
from lavakv.scoring.window import ScoringWindow


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
    rotation: tuple[Tensor, Tensor, Tensor] | None = None,
    replay: ReplayMaxima | None = None,
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
        tokens_per_head: the budget `b`, for policies in two stages and for `reach`, which else takes an eighth of the
            tokens.
        output_weight: `[query_heads, value_dim, hidden]`, the output projection, for policies that project values.
        prompt_queries: `[query_heads, N, head_dim]`, all of the prompt's queries, for policies that look beyond the
            window; they are taken to be causal. `reach` chooses among them by this layer alone; in a model,
            earlier layers count as well.
        residual_norms: `[w]`, L2 norms of the hidden states that the window's queries were made from, before the
            layer's norm, for policies that compare layers by them. Where a norm stands between the output projection
            and the stream, `lavakv`'s own policies expect these norms times what it divides the output by at each
            token, and `output_weight` times its gain.
        rotation: cosines and sines of all rows of the prompt, `[N, head_dim]` each with equal halves, and the radians
            per position of each pair of channels, `[head_dim / 2]`, for policies that look before the rotation.
        replay: float32 `[kv_heads, query heads a KV head, N]` each, what `lavakv.scoring.replay.chunk_maxima` gave for
            the chunks of a replay, joined along the tokens, for policies that need one.

    Returns:
        float32 `[kv_heads, N - w]`, or such values with a mask of protected entries; without gradients.

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
    require_rotation(rotation, num_tokens, q_window.shape[2])
    require_replay(replay, (key_chunks[0].shape[0], q_window.shape[0] // key_chunks[0].shape[0], num_tokens))
    heads, budget = key_chunks[0].shape[0], _checked(tokens_per_head, q_window, num_tokens)
    window = ScoringWindow(
        _grouped(q_window, heads), key_chunks, value_chunks, q_window.shape[-1] ** -0.5 if scaling is None else scaling,
        softcap, None if sinks is None else sinks.reshape(heads, -1), visible, layer, budget,
        None if output_weight is None else _grouped(output_weight, heads),
        None if prompt_queries is None else PromptRows(_grouped(prompt_queries, heads)),
        None if residual_norms is None else residual_norms.float(),
        rotation=None if rotation is None else Rotation(*rotation), replay=replay,
    )  # fmt: skip
    with torch.no_grad():
        return policy_scores(get_policy(policy), window)


def _checked(tokens_per_head: int | None, q_window: Tensor, num_tokens: int) -> int | None:
    """The budget, if there is one; raises BudgetError where it does not exceed the window of a longer prompt."""
    if tokens_per_head is not None:
        BudgetSpec(budget=tokens_per_head, window=q_window.shape[1]).tokens_per_head([num_tokens], 0, 1)
    return tokens_per_head


def _grouped(per_query_head: Tensor, num_heads: int) -> Tensor:
    """`[query_heads, ...]` to `[H, G, ...]`."""
    return per_query_head.reshape(num_heads, -1, *per_query_head.shape[1:])
