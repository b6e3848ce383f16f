"""A graph for the CPU that forgives as little as one on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lavakv.hf.graph.backend import DeviceGraph
from lavakv.hf.graph.host_reads import RefuseHostReads


class FakeGraph(DeviceGraph):
    """Records every operator with its tensors and numbers, and repeats them on the same memory.

    Whatever the host worked out while the step was recorded is repeated as it was then. What a recorded call returned
    is overwritten by noise, as a device computes nothing while it records.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._calls: list[tuple[Any, Any, Any, Any]] = []

    def capture(self, prepare: Callable[[], None], step: Callable[[], Any]) -> Any:
        prepare()
        recorder = _Recorder(self._calls)
        with _no_reads_past_the_dispatcher(), RefuseHostReads(self._device), recorder:
            result = step()
        for _, args, kwargs, returned in self._calls:
            for tensor in _new(args, kwargs, returned):
                tensor.fill_(float("nan") if tensor.is_floating_point() else 1)
        return result

    def wait(self) -> None:
        """Nothing runs by itself on a CPU."""

    def replay(self) -> None:
        with torch.inference_mode():  # what was recorded in that mode may be written to
            for function, args, kwargs, returned in self._calls:
                again = function(*args, **kwargs)
                new = {id(tensor) for tensor in _new(args, kwargs, returned)}
                for tensor, other in zip(tree_leaves(returned), tree_leaves(again), strict=True):
                    if id(tensor) in new:
                        tensor.copy_(other)


class _Recorder(TorchDispatchMode):
    def __init__(self, calls: list[tuple[Any, Any, Any, Any]]) -> None:
        super().__init__()
        self._calls = calls

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        returned = function(*args, **kwargs)
        self._calls.append((function, args, kwargs, returned))
        return returned


def _new(args: Any, kwargs: Any, returned: Any) -> list[Tensor]:
    """What a call returned in memory of its own: neither a view nor what it was given."""
    given = {leaf.untyped_storage().data_ptr() for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
    tensors = [leaf for leaf in tree_leaves(returned) if isinstance(leaf, Tensor) and leaf.numel()]
    return [tensor for tensor in tensors if tensor.untyped_storage().data_ptr() not in given]


@contextmanager
def _no_reads_past_the_dispatcher() -> Iterator[None]:
    def refused(*_: Any) -> None:
        raise AssertionError("reads a tensor on the host")

    with pytest.MonkeyPatch.context() as patch:
        for name in ("tolist", "numpy", "cpu", "__array__"):
            patch.setattr(torch.Tensor, name, refused)
        yield
