"""Decoding on a CPU: one step of a layer in one call of C, where the machine has a compiler."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from lavakv.attention.partial import attend_part
from lavakv.attention.request import AttentionRequest, AttentionSettings
from lavakv.kernels import checked_once
from lavakv.native.build import Library, folder, library
from lavakv.store.ragged import RaggedStore

_Shape = ctypes.c_int64 * 8
_DTYPES = (torch.float32, torch.bfloat16)
_FLOAT32: dict[str, Any] = {"dtype": torch.float32, "device": "cpu"}  # whatever the user's defaults are


def native_fits(store: RaggedStore, request: AttentionRequest) -> bool:
    """Whether this is one new token in float32 or bfloat16 on the CPU, without softcap or gradient."""
    queries = request.queries
    return (
        queries.shape[2] == 1
        and type(queries) is Tensor
        and queries.dtype in _DTYPES
        and queries.device.type == "cpu"
        and request.settings.softcap is None
        and store.past is not None
        and store.past.keys.dtype == store.past.values.dtype == queries.dtype
        and not (queries.requires_grad and torch.is_grad_enabled())
        and kernel() is not None
    )


def attend_native(store: RaggedStore, request: AttentionRequest) -> Tensor:
    """Twin of `attend_ragged` for what `native_fits`; `[B, query_heads, 1, value_dim]`."""
    found = kernel()
    assert found is not None
    return _decode(found, store, request)


def _decode(found: Library, store: RaggedStore, request: AttentionRequest) -> Tensor:
    past, tail = store.past, store.tail
    assert past is not None
    assert tail is not None
    queries, (scaling, _, sinks), mask, _ = request
    held = None if request.past_mask is None else _shown_entries(store, request.past_mask)
    batch, query_heads, _, head_dim = queries.shape
    (keys, values), heads, segments = tail.buffers, store.num_heads, batch * store.num_heads
    rows, value_dim = query_heads // heads, values.shape[3]
    seen = None if mask is None else mask[:, 0, 0].expand(batch, -1).contiguous()
    sinks = None if sinks is None else sinks.detach().float().contiguous()
    queries = queries.float().contiguous()
    chunks = past.num_chunks(found.chunk_entries) + segments * -(-tail.length // found.chunk_entries)
    sizes = (chunks * found.chunk_bytes, 8 * (segments + 1), 4 * chunks * rows * value_dim, 8 * chunks * rows)
    workspace = torch.empty(sum(sizes), dtype=torch.uint8, device="cpu")
    starts = [workspace.data_ptr() + sum(sizes[:index]) for index in range(4)]
    answer = queries.new_empty(batch, query_heads, 1, value_dim)
    shape = _Shape(batch, heads, rows, head_dim, value_dim, tail.length, keys.shape[2], keys.element_size())
    found.lavakv_decode(
        shape, scaling, past.host_offsets.data_ptr(), queries.data_ptr(), past.keys.data_ptr(),
        past.values.data_ptr(), keys.data_ptr(), values.data_ptr(), None if held is None else held.data_ptr(),
        None if seen is None else seen.data_ptr(), None if sinks is None else sinks.data_ptr(), *starts,
        answer.data_ptr(),
    )  # fmt: skip
    return answer.to(request.queries.dtype)


def _shown_entries(store: RaggedStore, mask: Tensor) -> Tensor:
    """Which entries of the past a mask of columns, bool `[B, 1, 1, columns]`, shows: bool `[entries]`."""
    assert store.past is not None
    past, num_columns = store.past, mask.shape[-1]
    sequences = torch.arange(mask.shape[0], device="cpu").repeat_interleave(store.num_heads)
    lengths = past.host_offsets.diff()
    return mask.flatten().take(past.columns.long() + num_columns * sequences.repeat_interleave(lengths))


def _is_right(found: Library) -> bool:
    """Whether it agrees with PyTorch on one head of 150 entries in each dtype, where a wrong build would be far off."""
    generator = torch.Generator().manual_seed(0)
    keys, values = (torch.randn(1, 1, 150, 20, generator=generator, **_FLOAT32) for _ in range(2))
    queries = torch.randn(1, 3, 1, 20, generator=generator, **_FLOAT32)
    expected = attend_part(queries[:, None, :, 0], keys, values, 0.3, None, None).output
    for dtype, most in ((torch.float32, 1e-5), (torch.bfloat16, 0.05)):
        store = RaggedStore()
        store.hold(keys.to(dtype), values.to(dtype))
        store.keep([torch.arange(130, device="cpu")[None]], [[130]], 20)
        answer = _decode(found, store, AttentionRequest(queries.to(dtype), AttentionSettings(0.3)))
        if not bool(torch.isclose(answer[:, None, :, 0].float(), expected, atol=most).all()):
            return False
    return True


kernel = checked_once(lambda: library(folder()), _is_right)  # None: PyTorch's operators do the work
