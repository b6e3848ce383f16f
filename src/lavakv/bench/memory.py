"""Peak memory of some work, above what was allocated before it; and what a GPU has left.

On a GPU the caching allocator counts. On a CPU no counter can be reset, so storages of tensors are counted when
operators make them and when they are freed; temporary memory inside an operator is not included.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from typing_extensions import override

Result = TypeVar("Result")


def with_peak(work: Callable[[], Result], device: torch.device) -> tuple[Result, int]:
    """Do some work; returns its result and the peak of bytes allocated above those before it."""
    if device.type != "cuda":
        with LiveStorages() as live:
            result = work()
        return result, live.peak
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    result = work()
    torch.cuda.synchronize(device)
    return result, torch.cuda.max_memory_allocated(device) - before


def free_memory(device: torch.device) -> None:
    """Give back what nothing refers to any more."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def available_bytes(device: torch.device, most: int | None = None) -> int:
    """Memory of a GPU that is left for caches.

    Args:
        device: a CUDA device.
        most: bytes that the process may use in all, if less than the device has.
    """
    free, _ = torch.cuda.mem_get_info(device)
    usable = free + torch.cuda.memory_reserved(device)
    return int((usable if most is None else min(usable, most)) - torch.cuda.memory_allocated(device))


@contextmanager
def at_most(device: torch.device, most: int | None) -> Iterator[None]:
    """Let PyTorch take no more than so many bytes of a GPU; everything if None."""
    total = torch.cuda.get_device_properties(device).total_memory
    if most is None or most >= total:
        yield
        return
    torch.cuda.set_per_process_memory_fraction(most / total, device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)


class LiveStorages(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of storages that operators make within this context.

    Attributes:
        live: bytes alive now.
        peak: maximum of bytes alive after an operator.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0
        self._seen: dict[int, weakref.ref[Any]] = {}

    @override
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in tree_leaves((args, kwargs)):
            self._note(tensor, counted=False)  # existing storages: a view of them is not a new one
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            self._note(tensor, counted=True)
        self.peak = max(self.peak, self.live)
        return result

    def _note(self, tensor: Any, counted: bool) -> None:
        if not isinstance(tensor, Tensor):
            return
        storage = tensor.untyped_storage()
        address, size = storage._cdata, storage.nbytes() if counted else 0
        if address in self._seen:
            return

        def freed(_: Any) -> None:
            self.live -= size
            self._seen.pop(address, None)

        self.live += size
        self._seen[address] = weakref.ref(storage, freed)
