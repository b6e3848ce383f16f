"""Keys to which a step's queries give no weight: how masking libraries hide entries from flash kernels."""

from __future__ import annotations

import torch
from torch import Tensor

_HIDDEN_LOGIT = -1000.0
_RIDGE = 1e-4


def fake_keys(query: Tensor, heads: int, scaling: float) -> Tensor:
    """Keys to which every query of a group gives a logit of -1000, `[B, H, head_dim]`.

    Args:
        query: `[B, query_heads, 1, head_dim]`, at most `head_dim` query heads a KV head.
        heads: KV heads `H`.
        scaling: factor on query-key products.
    """
    grouped = query.float().reshape(query.shape[0], heads, -1, query.shape[-1])
    products = grouped @ grouped.transpose(-1, -2)
    ridge = _RIDGE * products.diagonal(dim1=-2, dim2=-1).mean(dim=-1)[..., None, None]
    products = products + ridge * torch.eye(products.shape[-1], device=query.device)
    weights = torch.linalg.inv_ex(products).inverse.sum(dim=-1)  # inv_ex does not synchronise
    keys: Tensor = (_HIDDEN_LOGIT / scaling * weights[..., None] * grouped).sum(dim=2)
    return keys.to(query.dtype)
