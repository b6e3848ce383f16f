"""Compiled kernels, and what they are compiled for."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, NamedTuple

from torch import Tensor

from lavakv.attention.request import AttentionRequest
from lavakv.attention.triton import kernel
from lavakv.attention.triton.sizes import block_rows, launch_shape, max_rows, merged_tiles

Grid = tuple[int, int, int]
_MAX_VARIANTS = 64  # remembered; strides of masks vary


class Variant:
    """A kernel for arguments of one kind.

    The first launch goes through Triton, which looks at every argument and compiles; the others use the compiled kernel
    that it returned, as Triton's tutorials do. The caller must keep apart arguments for which Triton would compile
    another kernel: other dtypes, pointers or sizes divisible by 16 or not, sizes that are 1 or need 64 bits.

    Args:
        name: of the kernel.
        constants: its compile-time constants, which are its last parameters, in their order.
        options: warps and stages.
    """

    def __init__(self, name: str, constants: Mapping[str, object], options: Mapping[str, int]) -> None:
        self._name, self._constants, self._options = name, constants, options
        self._values = tuple(constants.values())
        self._compiled: Any = None
        self._takes_all_arguments = True

    def __call__(self, grid: Grid, *arguments: object) -> None:
        """Launch with these runtime arguments on the current device."""
        if self._compiled is not None:
            try:
                self._compiled[grid](*arguments, *self._values)
                return
            except TypeError:  # a Triton whose compiled kernels take other arguments
                self._compiled, self._takes_all_arguments = None, False
        launched = getattr(kernel, self._name)[grid](*arguments, **self._constants, **self._options)
        if self._takes_all_arguments and hasattr(launched, "__getitem__"):  # the interpreter returns None
            self._compiled = launched


class Kernels(NamedTuple):
    """The kernels that serve a request: of the tiles, and of the merger where that is a launch of its own."""

    attend: Variant
    merge: Variant | None


class Variants:
    """The kernels for queries and values of one size.

    Args:
        queries: `[B, query_heads, q, head_dim]`.
        values: `[B, H, capacity, value_dim]`, of the tail.

    Attributes:
        num_row_blocks: programs that share a tile's query rows.
    """

    def __init__(self, queries: Tensor, values: Tensor) -> None:
        _, query_heads, num_queries, head_dim = queries.shape
        heads, value_dim, itemsize = values.shape[1], values.shape[3], queries.element_size()
        group = query_heads // heads
        rows = min(block_rows(group * num_queries), max_rows(itemsize))
        self.num_row_blocks = -(-group * num_queries // rows)
        shape = launch_shape(head_dim, value_dim, itemsize, rows)
        self._sizes = {"HEADS": heads, "GROUP": group, "HEAD_DIM": head_dim, "VALUE_DIM": value_dim, "BLOCK_ROWS": rows,
                       "BLOCK_ENTRIES": shape.block_entries, "BLOCK_HEAD": shape.block_head,
                       "BLOCK_VALUE": shape.block_value, "BLOCK_TILES": merged_tiles(shape.block_value)}  # fmt: skip
        self._options = {"num_warps": shape.num_warps, "num_stages": shape.num_stages}
        self._merge_options = {"num_warps": 1 if shape.block_value <= 64 else 4}
        self._found: dict[Hashable, Kernels] = {}

    def __call__(self, kind: Hashable, request: AttentionRequest, on_device: bool, merge: bool) -> Kernels:
        """The kernels for requests like this one.

        Args:
            kind: all that Triton compiles for, beside what is the same for tensors of these sizes.
            request: has masks, a softcap and sinks or not.
            on_device: whether only the device knows where the tail ends.
            merge: whether the first launch merges.
        """
        return self._found.get(kind) or self._add(kind, request, on_device, merge)

    def _add(self, kind: Hashable, request: AttentionRequest, on_device: bool, merge: bool) -> Kernels:
        has_mask, has_sinks = request.tail_mask is not None, request.settings.sinks is not None
        flags = {"HAS_MASK": has_mask, "HAS_PAST_MASK": request.past_mask is not None,
                 "HAS_REACH": has_mask and self.num_row_blocks > 1,
                 "HAS_SOFTCAP": request.settings.softcap is not None, "HAS_SINKS": has_sinks, "ON_DEVICE": on_device,
                 "MERGE": merge}  # fmt: skip
        attend, then_merge = Variant("attend_tile", {**self._sizes, **flags}, self._options), None
        if not merge:
            sizes = {name: self._sizes[name] for name in ("HEADS", "GROUP", "VALUE_DIM", "BLOCK_VALUE", "BLOCK_TILES")}
            merge_flags = {"HAS_SINKS": has_sinks, "ON_DEVICE": on_device}
            then_merge = Variant("merge_tiles", {**sizes, **merge_flags}, self._merge_options)
        if len(self._found) >= _MAX_VARIANTS:
            self._found.clear()
        found = self._found[kind] = Kernels(attend, then_merge)
        return found
