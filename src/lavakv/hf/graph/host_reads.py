"""Finds what in a forward makes the host wait for its device: a graph cannot record that."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lavakv.hf.graph.refusal import CannotCapture

_WAITING = {
    "_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select", "_unique2", "unique_dim",
    "unique_consecutive", "bincount",
}  # fmt: skip
_COPIES = {"_to_copy", "copy_"}


class RefuseHostReads(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While active, an operator that reads a device tensor on the host, or copies between devices, raises.

    Args:
        device: where the forward runs.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._device = device

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = function.overloadpacket.__name__
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if self._any_here(tensors) and (name in _WAITING or _indexes_by_mask(name, args)):
            raise CannotCapture(f"{_module_under_way()} waits for the device ({function})")
        result = function(*args, **kwargs)
        if name in _COPIES:
            self._check_copy(function, tensors, result)
        return result

    def _any_here(self, tensors: Iterable[Tensor]) -> bool:
        return any(tensor.device == self._device for tensor in tensors)

    def _check_copy(self, function: Any, tensors: list[Tensor], result: Any) -> None:
        devices = {tensor.device for tensor in [*tensors, result] if isinstance(tensor, Tensor)}
        if len(devices) > 1 and self._device in devices:
            raise CannotCapture(f"{_module_under_way()} copies between devices ({function})")


def _module_under_way() -> str:
    """The innermost module whose code runs."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, nn.Module):
            return type(owner).__name__
        frame = frame.f_back
    return "the model's forward"


def _indexes_by_mask(name: str, args: Any) -> bool:
    """Whether the size of the result depends on what a boolean index holds."""
    indices = args[1] if name.startswith("index") and len(args) > 1 and isinstance(args[1], list | tuple) else ()
    return any(isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in indices)
