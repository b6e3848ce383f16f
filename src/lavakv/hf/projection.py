"""The attention's output projection, for the policies that look at projected values."""

from __future__ import annotations

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

_NAMES = ("o_proj", "out_proj", "dense", "c_proj")


def output_weight(module: nn.Module, values: Tensor, num_query_heads: int) -> Tensor | None:
    """`W_O` as `[query_heads, value_dim, hidden]`, a view; None where it is absent, quantised, or of another shape.

    Args:
        module: the attention module.
        values: `[B, H, columns, value_dim]`.
        num_query_heads: query heads.
    """
    for name in _NAMES:
        projection = getattr(module, name, None)
        if not isinstance(projection, (nn.Linear, Conv1D)) or not projection.weight.is_floating_point():
            continue
        weight: Tensor = projection.weight if isinstance(projection, Conv1D) else projection.weight.T
        if weight.shape[0] == num_query_heads * values.shape[-1]:
            return weight.view(num_query_heads, values.shape[-1], -1)
    return None
