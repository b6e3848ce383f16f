"""A compiled kernel, and what it was compiled for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lavakv.attention.triton import kernel

Grid = tuple[int, int, int]


class Variant:
    """A kernel for arguments of one kind.

    The first launch goes through Triton, which looks at every argument and compiles; the others use the compiled kernel
    that it returned, as Triton's tutorials do. Whoever launches must keep apart what Triton would compile anew for:
    other dtypes, pointers or sizes that are not divisible by 16 where they were, sizes that are 1 or need 64 bits.

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
