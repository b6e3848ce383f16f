"""Which layers the kernels can take, and how their work is cut: from sizes that the host knows, nothing else."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from lavakv.kernels import unsupported_reason

MODULE = "lavakv.attention.triton.kernel"
MIN_TILE, MAX_TILE, MAX_CHUNK_TILE = 128, 1024, 1 << 16
MAX_MERGE_BYTES = 128 * 1024
MAX_PART_BYTES = 256 * 2**20
_PROGRAMS_PER_PROCESSOR = 4
_MAX_TILES_PER_SEGMENT = 64  # with tiles up to MAX_TILE; twice as many before tiles get larger than that
_MERGED_NUMBERS = 4096  # read at once by the program that merges: 32 registers a thread
_MIN_BLOCK = 16  # what a matrix product takes at least


class LaunchShape(NamedTuple):
    """Block sizes of the tile kernel (powers of two), warps and pipeline stages."""

    block_head: int
    block_value: int
    block_entries: int
    num_warps: int
    num_stages: int


class PastSize(NamedTuple):
    """A past as the choice of tiles sees it.

    Attributes:
        num_entries: of all segments.
        num_segments: heads of all sequences.
        longest: entries of the longest segment.
    """

    num_entries: int
    num_segments: int
    longest: int


def tile_size(past: PastSize, num_processors: int, num_row_blocks: int = 1) -> int:
    """Entries of a tile, a power of two.

    A decode step (one block of query rows) has four tiles a processor, of 128 to 1,024 entries, and then

    - at least two tiles in a segment of mean length, as segments are of unequal length;
    - at most 64 tiles in the longest segment, or 128 if it takes more than 1,024 entries a tile, as they are merged one
      after another.

    For six sizes on an H200 (bfloat16, head size 128; `docs/log.md`, 2026-11-26) these are within 3 % of the best of
    twelve settings: batch 1 with 1,024 entries a head 128, with 16,384 entries 1,024 (27.0 us; 34.2 with 256); batch 8
    with 1,024 entries 128, with 4,096 512, with 16,384 1,024; batch 64 with 1,024 512 (79.2 us; 84.9 with 1,024).

    A chunk of tokens has programs enough with few tiles, each of which writes all rows of the chunk.

    Args:
        past: sizes of the past.
        num_processors: of the device.
        num_row_blocks: blocks of query rows that each tile is read for.
    """
    size = power_of_two(-(-past.num_entries * num_row_blocks // (_PROGRAMS_PER_PROCESSOR * num_processors)))
    if num_row_blocks > 1:
        return min(max(size, MIN_TILE), MAX_CHUNK_TILE)
    size = min(size, MAX_TILE, power_of_two(past.num_entries // max(2 * past.num_segments, 1)))
    few_tiles = power_of_two(-(-past.longest // _MAX_TILES_PER_SEGMENT))
    at_least = max(min(few_tiles, MAX_TILE), few_tiles // 2)
    return max(size, MIN_TILE, at_least)


def max_rows(itemsize: int) -> int:
    """Most query rows that one program attends with; more of them are several programs' work.

    In float32 more than one block of 16 rows spills registers (seen in the compiled code for compute capability 9.0).
    """
    return 64 if itemsize < 4 else 16


def block_rows(rows: int) -> int:
    """Query rows of a KV head, padded."""
    return max(power_of_two(rows), _MIN_BLOCK)


def launch_shape(head_dim: int, value_dim: int, itemsize: int, num_rows: int = _MIN_BLOCK) -> LaunchShape:
    """Blocks that fit into the shared memory and registers of the supported GPUs.

    The least of them have 99 KiB of shared memory (compute capabilities 8.6, 8.9 and 12.0; tests compile for them). A
    third stage, with which five of the six sizes in `tile_size` were fastest, fits where there are few rows; many rows
    of large heads need the registers of eight warps.
    """
    head, value = (max(power_of_two(size), _MIN_BLOCK) for size in (head_dim, value_dim))
    row_bytes = max(head, value) * itemsize
    few_rows = num_rows <= _MIN_BLOCK
    num_warps = 4 if few_rows or row_bytes <= 256 else 8
    return LaunchShape(
        head, value, 64 if row_bytes <= 256 else 32, num_warps, 3 if few_rows and row_bytes <= 512 else 2
    )


def merged_tiles(block_value: int) -> int:
    """Tiles whose rows are read at once where they are merged."""
    return max(_MERGED_NUMBERS // block_value, _MIN_BLOCK)


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
