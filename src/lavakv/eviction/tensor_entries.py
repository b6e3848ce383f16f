"""Where the tensors of a safetensors file are, by its header. Needs no PyTorch."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

ITEMSIZES = {"BOOL": 1, "U8": 1, "I8": 1, "I16": 2, "F16": 2, "BF16": 2, "I32": 4, "F32": 4, "I64": 8, "F64": 8}


class TensorEntry(NamedTuple):
    """Where a tensor is in a file.

    Attributes:
        dtype: as safetensors names it.
        shape: sizes of its dimensions.
        start: its first byte, counted from the first tensor's.
        stop: the byte behind its last one.
    """

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


def tensor_entries(table: dict[str, Any], num_bytes: int) -> dict[str, TensorEntry]:
    """The tensors in the order of their bytes, which they fill without gaps.

    Args:
        table: the header, metadata left out.
        num_bytes: of all tensors.

    Raises:
        ValueError: a table of something else; KeyError and TypeError likewise.
    """
    entries = []
    for name, one in table.items():
        (start, stop), shape = one["data_offsets"], one["shape"]
        if not all(type(number) is int and number >= 0 for number in (start, stop, *shape)):
            raise ValueError(f"{name} has no shape or place")
        if math.prod(shape) * ITEMSIZES[one["dtype"]] != stop - start:
            raise ValueError(f"the shape of {name} does not fit its bytes")
        entries.append((name, TensorEntry(one["dtype"], tuple(shape), start, stop)))
    entries.sort(key=lambda each: each[1][2:])
    ends = [0, *(entry.stop for _, entry in entries)]
    if [entry.start for _, entry in entries] != ends[:-1]:
        raise ValueError("its tensors overlap, or leave gaps")
    if ends[-1] != num_bytes:
        raise ValueError(f"{num_bytes} bytes of tensors where there should be {ends[-1]}")
    return dict(entries)
