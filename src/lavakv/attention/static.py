"""Decode steps that a CUDA graph can replay: what changes from step to step is read from device tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from lavakv.attention import plan
from lavakv.attention.ragged import attend_past_and_tail
from lavakv.attention.request import AttentionRequest
from lavakv.errors import InputError, UnsupportedError
from lavakv.store.quantised import QuantisedStore
from lavakv.store.ragged import RaggedStore


def append_and_attend(
    store: RaggedStore, keys: Tensor, values: Tensor, request: AttentionRequest, length: Tensor
) -> Tensor:
    """Write new columns behind the tail and attend to everything, at a place that only the device knows.

    Does the same work on the same pointers at every call, so that a call captured in a CUDA graph does the next step
    when it is replayed with other contents of `keys`, `values`, queries, mask and `length`. The Triton kernels serve
    it where `AttentionPlan` would choose them, PyTorch's operators over all of the tail's capacity elsewhere.

    Before: `store.tail.reserve(num_columns)` for all steps to come, and a call or more outside the capture, which
    compiles the kernels and plans the tiles (`length` has not changed, so the same columns are written again). Columns
    beyond the reserved capacity are undefined behaviour: the host cannot check. Between steps: add `q` to `length` once
    for all layers that share it. After: `store.tail.advance(num_columns)`, so that the host knows as well.

    Args:
        store: evicted, with capacity reserved.
        keys: new keys `[B, H, q, head_dim]`.
        values: new values `[B, H, q, value_dim]`.
        request: queries and settings; for several queries a mask, bool `[B, 1, q, capacity]` over all capacity,
            whose columns from `length + q` on are not read.
        length: int64 `[1]` on the device: columns in the tail before this step.

    Returns:
        `[B, query_heads, q, value_dim]` in the queries' dtype.

    Raises:
        UnsupportedError: a past in fewer bits.
        InputError: several queries without a mask.
    """
    assert store.past is not None
    assert store.tail is not None
    if isinstance(store, QuantisedStore):
        raise UnsupportedError(
            "static decoding", expected="a past in the dtype of the tail",
            got=f"a past in {store.kv_bits} bits, which is dequantised again at every step",
            fix="Decode without a CUDA graph.",
        )  # fmt: skip
    if request.queries.shape[2] > 1 and request.tail_mask is None:
        raise InputError(
            "request.tail_mask",
            expected="a mask where there are several queries",
            got="None",
            fix="Pass bool [B, 1, q, capacity], causal among the new columns.",
        )
    store.tail.write_at(length, keys.detach(), values.detach())
    attend = _attend_kernels if _kernels_serve(store, request) else _attend_plain
    return attend(store, request, length)


def _kernels_serve(store: RaggedStore, request: AttentionRequest) -> bool:
    """Whether the Triton kernels take this; where they are expected to and cannot, the reason is warned of once."""
    if not plan.kernels_expected(store, request):
        return False
    reason = plan.kernel_refusal(store, request)
    if reason is not None:
        plan.fallback.warn(reason)
    return reason is None


def _attend_kernels(store: RaggedStore, request: AttentionRequest, length: Tensor) -> Tensor:
    from lavakv.attention.triton.launch import Tail, attend_tiles  # loads Triton

    assert store.past is not None
    assert store.tail is not None
    return attend_tiles(store.past, Tail(*store.tail.buffers, request.queries.shape[2], length), request)


def _attend_plain(store: RaggedStore, request: AttentionRequest, length: Tensor) -> Tensor:
    """Twin of `_attend_kernels` with PyTorch's operators; columns that are not in use are hidden and cleared."""
    assert store.past is not None
    assert store.tail is not None
    keys, values = store.tail.buffers
    in_use = torch.arange(keys.shape[2], device=length.device) < length + request.queries.shape[2]
    keys, values = (torch.where(in_use[:, None], buffer, 0) for buffer in (keys, values))  # spare columns may be NaN
    mask = in_use.expand(1, 1, request.queries.shape[2], -1)
    if request.tail_mask is not None:
        mask = request.tail_mask & mask
    return attend_past_and_tail(store.past, keys, values, request._replace(tail_mask=mask))
