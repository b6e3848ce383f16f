"""Watches what PyTorch operators allocate."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Allocations(TorchDispatchMode):
    """Bytes of storages that operators returned while this mode was on; what stays inside one operator is not seen.

    Attributes:
        largest: bytes of the largest one.
        peak: most bytes alive at a time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.largest = self.peak = 0
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        result = func(*args, **kwargs)
        self._alive = {key: entry for key, entry in self._alive.items() if not entry[0].expired()}
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and (storage := leaf.untyped_storage())._cdata not in given:
                self._alive.setdefault(storage._cdata, (StorageWeakRef(storage), storage.nbytes()))
                self.largest = max(self.largest, storage.nbytes())
        self.peak = max(self.peak, sum(size for _, size in self._alive.values()))
        return result
