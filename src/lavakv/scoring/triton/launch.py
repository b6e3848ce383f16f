"""Launches the kernels over a window. Reads nothing back from the device."""

from __future__ import annotations

import math
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from lavakv.scoring.blocks import WindowRows
from lavakv.scoring.triton import kernel

_MIN_BLOCK = 16  # what a matrix product takes at least
_SPLITS_PER_PROCESSOR = 4
MAX_SPLITS = 256


def mean_attention(rows: WindowRows, num_columns: int) -> Tensor:
    """The window's mean attention to the first `num_columns` positions, as the plain reduction gives it.

    Args:
        rows: the window, causal, without softcap, its keys in one chunk.
        num_columns: how many positions to compute.

    Returns:
        float32 `[H, G, num_columns]`.
    """
    queries, keys = _with_dense_rows(rows.queries), _with_dense_rows(rows.keys[0])
    heads, group, num_rows, head_dim = queries.shape
    num_tokens, (block, num_warps) = keys.shape[1], launch_for(head_dim, queries.element_size())
    split_tokens = _split_tokens(num_tokens, block, heads * group, _num_processors(queries.device))
    num_splits = -(-num_tokens // split_tokens)
    parts = queries.new_empty(2, num_splits, heads, group, num_rows, dtype=torch.float32)
    means = queries.new_empty(heads, group, num_columns, dtype=torch.float32)
    scaling, strides = rows.scaling / math.log(2), (*queries.stride()[:3], *keys.stride()[:2])
    sizes = {"GROUP": group, "HEAD_DIM": head_dim, "BLOCK_ROWS": _block(num_rows), "BLOCK_KEYS": block}
    sizes |= {"BLOCK_HEAD": _block(head_dim), "num_warps": num_warps}
    with torch.cuda.device(queries.get_device()):  # Triton launches on the current device, models may span several
        kernel.row_denominators[(group, heads, num_splits)](
            queries, keys, parts[0], parts[1], scaling, num_rows, num_tokens, split_tokens, *strides, HEADS=heads,
            **sizes,
        )  # fmt: skip
        largest, total = _merged(parts, rows.sinks)
        kernel.column_means[(-(-num_columns // block), heads)](
            queries, keys, largest, total, means, scaling, num_rows, num_tokens, num_columns, *strides, **sizes
        )
    return means


def _merged(parts: Tensor, sinks: Tensor | None) -> tuple[Tensor, Tensor]:
    """Largest logits and denominators over splits and sinks, to the base 2, float32 `[H, G, w]` each."""
    largests, totals = parts
    if sinks is not None:
        column = (sinks.float() / math.log(2))[None, :, :, None].expand(1, *largests.shape[1:])
        largests, totals = torch.cat([largests, column]), torch.cat([totals, torch.ones_like(column)])
    largest = largests.amax(dim=0)
    return largest, (totals * torch.exp2(largests - largest)).sum(dim=0)


def _with_dense_rows(tensor: Tensor) -> Tensor:
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


class Launch(NamedTuple):
    """Keys per block of a program, and its warps, chosen so that registers do not spill."""

    block_keys: int
    num_warps: int


def launch_for(head_dim: int, itemsize: int) -> Launch:
    """Launch settings that fit the supported GPUs; float32 products go without tensor cores and need more registers."""
    if itemsize == 4:
        return Launch(16, 8)
    return Launch(64 if head_dim <= 128 else 32, 4)


def _split_tokens(num_tokens: int, block: int, num_query_heads: int, num_processors: int) -> int:
    """Keys of a split: a multiple of the block, so few that every processor gets several programs."""
    num_splits = min(max(_SPLITS_PER_PROCESSOR * num_processors // num_query_heads, 1), MAX_SPLITS)
    return -(-num_tokens // (num_splits * block)) * block


def _block(size: int) -> int:
    return max(1 << max(size - 1, 0).bit_length(), _MIN_BLOCK)


@cache
def _num_processors(device: torch.device) -> int:
    """Multiprocessors of a GPU; 1 for the interpreter."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1
