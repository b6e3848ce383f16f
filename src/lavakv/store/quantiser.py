"""Keys and values in 8 or 4 bits: each entry's vector as one row of bytes, codes first, then a scale per group.

A vector is rotated by a Hadamard matrix, which spreads a large channel over its neighbours, and cut into groups of
channels. A group's codes are evenly spaced between its largest magnitude and the negative of it. Everything is
elementwise, so that a row does not depend on what is quantised beside it, and quantising what was dequantised gives
the same row again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from lavakv.errors import UnsupportedError

GROUP_SIZES = (32, 16, 8)
MAX_BLOCK_ELEMENTS = 2**20  # 4 MiB of float32
_SCALE = torch.bfloat16  # as wide a range as float32; codes are chosen by the rounded scale


class Quantiser(NamedTuple):
    """How vectors of one size are kept.

    Attributes:
        bits: of a code, 8 or 4; two codes of 4 bits share a byte.
        dim: numbers of a vector, a multiple of 8.
    """

    bits: int
    dim: int

    @property
    def group_size(self) -> int:
        """Channels that share a scale."""
        return next(size for size in GROUP_SIZES if self.dim % size == 0)

    @property
    def code_bytes(self) -> int:
        """Bytes of a vector's codes."""
        return self.dim * self.bits // 8

    @property
    def row_bytes(self) -> int:
        """Bytes of a vector, scales included."""
        return self.code_bytes + self.dim // self.group_size * _SCALE.itemsize

    def quantise(self, vectors: Tensor) -> Tensor:
        """Rows of bytes, uint8 `[entries, row_bytes]`, of vectors `[entries, dim]`, any float dtype."""
        rows = torch.empty(len(vectors), self.row_bytes, dtype=torch.uint8, device=vectors.device)
        for source, target in self._blocks(vectors, rows):
            groups = _rotated(source.float()).view(len(source), self.dim // self.group_size, self.group_size)
            scales = (groups.abs().amax(dim=2) / self._largest).to(_SCALE)
            steps = (groups / scales.float()[..., None]).nan_to_num_(0.0).add_(self._largest)
            codes = steps.round_().clamp_(0, 2**self.bits - 1).to(torch.uint8).view(len(source), self.dim)
            if self.bits == 4:
                low, high = codes.chunk(2, dim=1)
                codes = low | high << 4
            target[:, : self.code_bytes] = codes
            target[:, self.code_bytes :] = scales.view(torch.uint8)
        return rows

    def dequantise(self, rows: Tensor, dtype: torch.dtype) -> Tensor:
        """Vectors `[entries, dim]` of rows of bytes."""
        vectors = torch.empty(len(rows), self.dim, dtype=dtype, device=rows.device)
        for source, target in self._blocks(rows, vectors):
            codes = source[:, : self.code_bytes]
            if self.bits == 4:
                codes = torch.cat([codes & 15, codes >> 4], dim=1)
            scales = source[:, self.code_bytes :].contiguous().view(_SCALE).float()
            groups = codes.float().sub_(self._largest).view(len(source), self.dim // self.group_size, self.group_size)
            target.copy_(_rotated(groups.mul_(scales[..., None]).view(len(source), self.dim)))
        return vectors

    def quantised_once(self, vectors: Tensor) -> Tensor:
        """What is left of vectors `[entries, dim]` that are quantised and read again, in their own dtype."""
        return self.dequantise(self.quantise(vectors), vectors.dtype)

    @property
    def _largest(self) -> float:
        """The largest number that a code stands for, in units of the scale; the smallest is its negative."""
        return ((1 << self.bits) - 1) / 2

    def _blocks(self, sources: Tensor, targets: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Both cut into blocks of entries: memory for float32 copies does not grow with their number."""
        entries = max(MAX_BLOCK_ELEMENTS // self.dim, 1)
        for start in range(0, len(sources), entries):
            yield sources[start : start + entries], targets[start : start + entries]


def check_sizes(dims: Iterable[int]) -> None:
    """Check that vectors of these sizes can be cut into groups.

    Raises:
        UnsupportedError: a size that is no multiple of the smallest group.
    """
    odd = [dim for dim in dims if dim % GROUP_SIZES[-1]]
    if odd:
        raise UnsupportedError(
            "kv_bits", expected=f"heads whose size is a multiple of {GROUP_SIZES[-1]}", got=f"heads of {odd[0]}",
            fix="Leave it out for this model.",
        )  # fmt: skip


def check_quantisable(keys: Tensor, values: Tensor) -> None:
    """Check keys and values `[..., dim]` before they are quantised.

    Raises:
        UnsupportedError: a size that cannot be cut into groups, or no floating point numbers of at least 16 bits.
    """
    check_sizes((keys.shape[-1], values.shape[-1]))
    found = [part.dtype for part in (keys, values) if not part.is_floating_point() or part.itemsize < 2]
    if found:
        raise UnsupportedError(
            "kv_bits", expected="keys and values in float64, float32, bfloat16 or float16", got=str(found[0]),
            fix="Leave it out for this model.",
        )  # fmt: skip


def _rotated(vectors: Tensor) -> Tensor:
    """`[entries, dim]` times a normalised Hadamard matrix, its own inverse, of the largest size that divides `dim`.

    By sums and differences, not as a matrix product: that may round differently beside other rows.
    """
    entries, dim = vectors.shape
    size = dim & -dim
    for half in (2**power for power in range(size.bit_length() - 1)):
        pairs = vectors.reshape(entries, dim // (2 * half), 2, half)
        left, right = pairs.unbind(2)
        vectors = torch.stack([left + right, left - right], dim=2).view(entries, dim)
    return vectors * (1 / math.sqrt(size))
