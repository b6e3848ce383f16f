"""Decode steps that a CUDA graph can replay: what changes from step to step is read from device tensors."""

from __future__ import annotations

from torch import Tensor

from lavakv.attention.request import AttentionRequest
from lavakv.attention.triton.sizes import refusal
from lavakv.errors import InputError, UnsupportedError
from lavakv.store.quantised import QuantisedStore
from lavakv.store.ragged import RaggedStore


def append_and_attend(
    store: RaggedStore, keys: Tensor, values: Tensor, request: AttentionRequest, length: Tensor
) -> Tensor:
    """Write new columns behind the tail and attend to everything, at a place that only the device knows.

    Launches the same kernels with the same grid and pointers at every call, so that a call captured in a CUDA graph
    does the next step when it is replayed with other contents of `keys`, `values`, queries, mask and `length`.

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
        UnsupportedError: the Triton kernels cannot take this layer; the message says why.
        InputError: several queries without a mask.
    """
    assert store.past is not None
    assert store.tail is not None
    reason = refusal(request.queries, keys, values)
    if isinstance(store, QuantisedStore):
        reason = f"a past in {store.kv_bits} bits, which is dequantised again at every step"
    if reason is not None:
        raise UnsupportedError(
            "static decoding", expected="a layer for the Triton kernels", got=reason, fix="Decode without a CUDA graph."
        )
    if request.queries.shape[2] > 1 and request.tail_mask is None:
        raise InputError(
            "request.tail_mask",
            expected="a mask where there are several queries",
            got="None",
            fix="Pass bool [B, 1, q, capacity], causal among the new columns.",
        )
    from lavakv.attention.triton.launch import Tail, attend_tiles  # loads Triton

    store.tail.write_at(length, keys.detach(), values.detach())
    return attend_tiles(store.past, Tail(*store.tail.buffers, keys.shape[2], length), request)
