"""Chooses the path of the window's mean attention: the Triton kernels where they fit, plain blocks elsewhere."""

from __future__ import annotations

from torch import Tensor

from lavakv.kernels import Fallback, unsupported_reason
from lavakv.scoring.blocks import WindowRows

MODULE = "lavakv.scoring.triton.kernel"
MAX_ROWS = {2: 64, 4: 32}  # by bytes of a number: more do not fit the registers
fallback = Fallback("scoring")


def fused_mean_attention(rows: WindowRows, num_columns: int) -> Tensor | None:
    """Mean attention by the kernels, or None where the plain path has to do it.

    The plain path is expected on anything but a CUDA device, with `LAVAKV_TRITON=0`, and for a softcap, a mask of its
    own, keys in chunks, heads with empty places and nothing to score. Any other reason is warned of once.

    Returns:
        float32 `[H, G, num_columns]`, or None.
    """
    plain = rows.softcap is not None or rows.visible is not None or rows.caps is not None or len(rows.keys) > 1
    on_cpu = rows.queries.device.type == "cpu" and not fallback.on_cpu  # the common case: nothing else to look at
    if on_cpu or plain or not num_columns or not fallback.expected_on(rows.queries.device):
        return None
    reason = _unsupported_reason(rows.queries, rows.keys[0])
    return fallback.run(_signature(rows), reason, _kernels, rows, num_columns)


def _unsupported_reason(queries: Tensor, keys: Tensor) -> str | None:
    """The reason why the kernels cannot take these tensors, or None if they can.

    Args:
        queries: `[H, G, w, head_dim]`.
        keys: `[H, N, head_dim]`.
    """
    if queries.shape[2] > (most := MAX_ROWS.get(queries.element_size(), queries.shape[2])):
        return f"a window of {queries.shape[2]} tokens is over {most}"
    return unsupported_reason(MODULE, queries=queries, keys=keys)


def _kernels(rows: WindowRows, num_columns: int) -> Tensor:
    from lavakv.scoring.triton.launch import mean_attention  # loads Triton

    return mean_attention(rows, num_columns)


def _signature(rows: WindowRows) -> tuple[object, ...]:
    """Key of a compiled kernel; one that fails is not tried again for the same key."""
    return rows.queries.device, rows.queries.dtype, *rows.queries.shape[1:]
