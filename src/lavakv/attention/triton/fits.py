"""Why the Triton kernels cannot take a layer: what can be told before they are loaded."""

from __future__ import annotations

from torch import Tensor

from lavakv.kernels import unsupported_reason

MODULE = "lavakv.attention.triton.kernel"


def refusal(queries: Tensor, keys: Tensor, values: Tensor) -> str | None:
    """The reason why the kernels cannot take these tensors, or None if they can.

    Args:
        queries: `[B, query_heads, q, head_dim]`.
        keys: `[..., head_dim]`.
        values: `[..., value_dim]`.
    """
    return unsupported_reason(MODULE, queries=queries, keys=keys, values=values)
