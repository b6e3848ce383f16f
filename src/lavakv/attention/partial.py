"""Attention over a part of the entries, with the log-sum-exp that lets parts be merged exactly."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Partial(NamedTuple):
    """Attention over some entries only.

    Attributes:
        output: `[..., rows, value_dim]`, the softmax average over these entries.
        log_sum_exp: `[..., rows]`, log of the softmax denominator, float32 or wider; -inf where nothing was seen.
    """

    output: Tensor
    log_sum_exp: Tensor


def merge(parts: list[Partial], sinks: Tensor | None) -> Tensor:
    """Combine attention over disjoint parts into attention over all of them, `[..., rows, value_dim]`.

    Args:
        parts: at least one saw something for every row.
        sinks: logits broadcastable to `[..., rows]` that only add to the denominator, or None.
    """
    denominators = [part.log_sum_exp for part in parts]
    if sinks is not None:
        denominators.append(sinks.to(denominators[0].dtype).expand_as(denominators[0]))
    weights = torch.softmax(torch.stack(denominators), dim=0).unsqueeze(-1)  # more exact than exp(part - logsumexp)
    return sum(
        (part.output * weight for part, weight in zip(parts[1:], weights[1:], strict=False)),  # sinks have no output
        parts[0].output * weights[0],
    )


def attend_part(
    queries: Tensor, keys: Tensor, values: Tensor, scaling: float, softcap: float | None, mask: Tensor | None
) -> Partial:
    """Attend by plain matrix products; any dtype, device, head size, softcap.

    Args:
        queries: `[..., rows, head_dim]`.
        keys: `[..., entries, head_dim]`.
        values: `[..., entries, value_dim]`.
        scaling: factor on query-key products.
        softcap: logit softcap, or None.
        mask: bool, broadcastable to `[..., rows, entries]`, or None for all.
    """
    exact = torch.promote_types(queries.dtype, torch.float32)
    logits = torch.matmul(queries, keys.transpose(-1, -2)).to(exact) * scaling
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    if mask is not None:
        logits = logits.masked_fill(~mask, float("-inf"))
    log_sum_exp = torch.logsumexp(logits, dim=-1)
    weights = torch.exp(logits - log_sum_exp.clamp(min=torch.finfo(exact).min).unsqueeze(-1))
    return Partial(torch.matmul(weights.to(values.dtype), values).to(exact), log_sum_exp)
