"""Norms of values after the attention's output projection."""

from __future__ import annotations

import torch
from torch import Tensor

_CACHED_TOKENS = 256  # projected values of this many tokens fit a core's cache


def projected_norms(values: Tensor, weight: Tensor, max_block_elements: int) -> Tensor:
    """`||V_h[i] W_O,q||_1`, float32 `[H, G, tokens]`, computed for one query head and few tokens at a time.

    Args:
        values: `[H, tokens, value_dim]`.
        weight: `[H, G, value_dim, hidden]`.
        max_block_elements: float32 elements of projected values at a time on a GPU, where large products are faster.
    """
    heads, group, _, hidden = weight.shape
    tokens = max(max_block_elements // hidden, 1) if values.is_cuda else _CACHED_TOKENS
    norms = [
        _of_query_head(values[head], weight[head, query], tokens) for head in range(heads) for query in range(group)
    ]
    return torch.stack(norms).view(heads, group, -1)


def _of_query_head(values: Tensor, weight: Tensor, tokens: int) -> Tensor:
    """`[N]` of values `[N, value_dim]` and a projection `[value_dim, hidden]`, that many tokens at a time."""
    projection = weight.float()
    parts = [torch.matmul(part.float(), projection).abs().sum(-1) for part in torch.split(values, tokens)]
    return torch.cat(parts)
