"""Attention logits of some query rows to some keys, masked."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class QueryRows(NamedTuple):
    """Consecutive queries of one sequence.

    Attributes:
        queries: `[H, G, rows, head_dim]`, any float dtype.
        first: position of the first row, counted from the first key.
        visible: bool `[rows, tokens]` or `[H, 1, rows, tokens]`, what each row sees of the keys; None means causal.
        empty: bool `[H, tokens]`, places that hold no key, whatever their contents; None where all hold one.
    """

    queries: Tensor
    first: int
    visible: Tensor | None
    empty: Tensor | None = None


def masked_logits(
    rows: QueryRows,
    keys: Tensor,
    scaling: float,
    softcap: float | None,
    sinks: Tensor | None,
    workspace: Tensor | None = None,
) -> Tensor:
    """Logits in float32, -inf where a row does not see and where a place is empty.

    Args:
        rows: the queries.
        keys: `[H, tokens, head_dim]`.
        scaling: factor on query-key products.
        softcap: logit softcap, or None.
        sinks: `[H, G]` to append as a last column, or None.
        workspace: float32 `[>= H * G * rows * tokens]`, memory to write to: new pages cost more than the product.

    Returns:
        `[H, G, rows, tokens]`, one column more with sinks.
    """
    logits = plain_logits(rows, keys, scaling, softcap, workspace)
    if rows.visible is not None:
        logits.masked_fill_(~rows.visible, float("-inf"))
    else:
        first_masked = min(max(rows.first, 0), keys.shape[1])  # every row sees what came before the first
        logits[..., first_masked:].masked_fill_(~_causal(rows, first_masked, keys), float("-inf"))
    if rows.empty is not None:
        logits.masked_fill_(rows.empty[:, None, None], float("-inf"))
    if sinks is not None:
        column = sinks.float()[:, :, None, None].expand(*logits.shape[:3], 1)
        logits = torch.cat([logits, column], dim=-1)
    return logits


def plain_logits(
    rows: QueryRows, keys: Tensor, scaling: float, softcap: float | None, workspace: Tensor | None = None
) -> Tensor:
    """Logits in float32 where every row sees every key, `[H, G, rows, tokens]`; arguments as `masked_logits`."""
    heads, group, num_rows, _ = rows.queries.shape
    packed = rows.queries.float().reshape(heads, group * num_rows, -1) * scaling
    shape = (heads, group * num_rows, keys.shape[1])
    target = None if workspace is None else workspace[: math.prod(shape)].view(shape)
    logits = torch.bmm(packed, keys.float().transpose(1, 2), out=target).view(heads, group, num_rows, -1)
    if softcap is not None:
        logits = logits.div_(softcap).tanh_().mul_(softcap)
    return logits


def _causal(rows: QueryRows, start: int, keys: Tensor) -> Tensor:
    """Whether a row sees each key from `start` on, bool `[rows, tokens - start]`."""
    positions = torch.arange(rows.first, rows.first + rows.queries.shape[2], device=keys.device)
    return torch.arange(start, keys.shape[1], device=keys.device) <= positions[:, None]
