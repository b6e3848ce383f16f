"""Which path the window's mean attention takes: the Triton kernels where they fit, plain blocks everywhere else."""

from __future__ import annotations

import torch
from torch import Tensor

from lavakv.kernels import DTYPES, MAX_DIM, Fallback, device_refusal
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
    if plain or not num_columns or not fallback.wanted(rows.queries.device):
        return None
    reason = refusal(rows.queries, rows.keys[0]) or fallback.failures.get(_signature(rows))
    if reason is None:
        try:
            return _kernels(rows, num_columns)
        except (torch.OutOfMemoryError, torch.AcceleratorError):
            raise  # the plain path would meet the same
        except Exception as error:  # Triton's compiler, a missing C compiler, the driver: anything
            reason = fallback.note(_signature(rows), error)
    fallback.warn(reason)
    return None


def refusal(queries: Tensor, keys: Tensor) -> str | None:
    """The reason why the kernels cannot take these tensors, or None if they can.

    Args:
        queries: `[H, G, w, head_dim]`.
        keys: `[H, N, head_dim]`.
    """
    if queries.dtype not in DTYPES:
        return f"{queries.dtype} is neither float16, bfloat16 nor float32"
    if queries.dtype != keys.dtype:
        return f"queries and keys are {queries.dtype} and {keys.dtype}"
    if queries.shape[3] > MAX_DIM:
        return f"head size {queries.shape[3]} is over {MAX_DIM}"
    if queries.shape[2] > (most := MAX_ROWS[queries.element_size()]):
        return f"a window of {queries.shape[2]} tokens is over {most}"
    if torch.is_grad_enabled() and (queries.requires_grad or keys.requires_grad):
        return "gradients are wanted (use torch.no_grad or torch.inference_mode)"
    return device_refusal(queries.device, MODULE)


def _kernels(rows: WindowRows, num_columns: int) -> Tensor:
    from lavakv.scoring.triton.launch import mean_attention  # loads Triton

    return mean_attention(rows, num_columns)


def _signature(rows: WindowRows) -> tuple[object, ...]:
    """What a kernel is compiled for; one that fails for this is not tried again for the same."""
    return rows.queries.device, rows.queries.dtype, *rows.queries.shape[1:]
