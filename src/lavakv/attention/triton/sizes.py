"""Which layers the kernels can take, and how their work is cut: from sizes that the host knows, nothing else."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from lavakv.kernels import unsupported_reason

MODULE = "lavakv.attention.triton.kernel"
MIN_TILE, MAX_TILE = 64, 1024
_TILES_PER_PROCESSOR = 4
_MIN_BLOCK = 16  # what a matrix product takes at least


class LaunchShape(NamedTuple):
    """Block sizes of the tile kernel (powers of two), warps and pipeline stages."""

    block_head: int
    block_value: int
    block_entries: int
    num_warps: int
    num_stages: int


def tile_size(num_entries: int, num_processors: int) -> int:
    """Entries of a tile: a power of two, small enough that a layer's survivors give every processor several tiles."""
    entries_per_tile = -(-num_entries // (_TILES_PER_PROCESSOR * num_processors))
    return min(max(power_of_two(entries_per_tile), MIN_TILE), MAX_TILE)


def max_rows(itemsize: int) -> int:
    """Most query rows of a KV head. Beyond, a step is a chunk of tokens and plain matrix products do well.

    In float32 more than one block of 16 rows spills registers (seen in the compiled code for compute capability 9.0).
    """
    return 64 if itemsize < 4 else 16


def block_rows(rows: int) -> int:
    """Query rows of a KV head, padded."""
    return max(power_of_two(rows), _MIN_BLOCK)


def launch_shape(head_dim: int, value_dim: int, itemsize: int) -> LaunchShape:
    """Blocks that fit into the shared memory and registers of the supported GPUs."""
    head, value = (max(power_of_two(size), _MIN_BLOCK) for size in (head_dim, value_dim))
    row_bytes = max(head, value) * itemsize
    return LaunchShape(head, value, 64 if row_bytes <= 256 else 32, 4, 2)


def power_of_two(number: int) -> int:
    """The smallest power of two that is not below a number."""
    return 1 << max(number - 1, 0).bit_length()


def refusal(queries: Tensor, keys: Tensor, values: Tensor) -> str | None:
    """The reason why the kernels cannot take these tensors, or None if they can; found without loading them.

    Args:
        queries: `[B, query_heads, q, head_dim]`.
        keys: `[..., head_dim]`.
        values: `[..., value_dim]`.
    """
    return unsupported_reason(MODULE, queries=queries, keys=keys, values=values)
