"""Which path through attention a layer's store gets, chosen once for all layers and forwards that are alike."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable

import torch
from torch import Tensor

from lavakv.attention.dense import attend_masked, attend_read
from lavakv.attention.native import attend_native, native_fits
from lavakv.attention.ragged import attend_ragged
from lavakv.attention.request import AttentionRequest
from lavakv.attention.triton.sizes import block_rows, max_rows, refusal
from lavakv.kernels import SWITCH, Fallback
from lavakv.store.base import LayerStore
from lavakv.store.masked import MaskedStore
from lavakv.store.quantised import QuantisedStore
from lavakv.store.ragged import RaggedStore

Path = Callable[..., Tensor]  # from a store of the kind it was chosen for and a request
fallback = Fallback("decoding")
_MAX_PATHS = 64  # remembered; each length of a chunk is a kind of its own


class AttentionPlan:
    """Attention of the layers of a cache, forward after forward.

    The first layer of a kind chooses the path for requests of one shape, dtype and device; all others follow it, those
    of later forwards included.
    """

    def __init__(self) -> None:
        self.paths: dict[Hashable, Path] = {}
        self._conditions: Hashable = _conditions()

    def renew(self) -> None:
        """Before a forward: forget the paths if the Triton kernels were switched on or off since they were chosen."""
        conditions = _conditions()
        if conditions != self._conditions:
            self._conditions = conditions
            self.paths.clear()

    def attend(self, store: LayerStore, request: AttentionRequest) -> Tensor:
        """Attend with new queries to everything the store holds, the queries' own tokens included.

        Returns:
            `[B, query_heads, q, value_dim]` in the queries' dtype.
        """
        queries = request.queries
        kind = (store.kind, queries.shape, queries.dtype, queries.device, type(queries),
                queries.requires_grad and torch.is_grad_enabled(), request.settings.softcap is None)  # fmt: skip
        path = self.paths.get(kind)
        if path is None:
            if len(self.paths) >= _MAX_PATHS:
                self.paths.clear()
            path = self.paths[kind] = choose(store, request)
        return path(store, request)


def _conditions() -> tuple[Hashable, ...]:
    """What paths are chosen by beside a store and a request."""
    return os.environ.get(SWITCH), fallback, fallback.on_cpu


def choose(store: LayerStore, request: AttentionRequest) -> Path:
    """Pick the path for a store and requests like this one, without touching the device.

    PyTorch's operators are expected on anything but a CUDA device, with `LAVAKV_TRITON=0`, and for chunks of tokens
    whose gradients are wanted; any other reason for not taking the Triton kernels is warned of once.
    """
    if isinstance(store, MaskedStore):
        return attend_masked
    if isinstance(store, QuantisedStore):
        return DequantisingPath()
    if not isinstance(store, RaggedStore):
        return attend_read
    if not kernels_expected(store, request):
        return attend_native if native_fits(store, request) else attend_ragged
    reason = kernel_refusal(store, request)
    if reason is not None:
        fallback.warn(reason)
        return attend_ragged
    from lavakv.attention.triton.launch import launch_for  # loads Triton

    assert store.tail is not None
    return KernelPath(_signature(store, request), launch_for(request.queries, store.tail.buffers[1]))


def kernels_expected(store: RaggedStore, request: AttentionRequest) -> bool:
    """Whether one expects the Triton kernels to serve this request: on a CUDA device, but for training on chunks."""
    queries = request.queries
    if not fallback.expected_on(queries.device):
        return False
    rows = queries.shape[1] // store.num_heads * queries.shape[2]
    return rows <= max_rows(queries.element_size()) or not (queries.requires_grad and torch.is_grad_enabled())


def kernel_refusal(store: RaggedStore, request: AttentionRequest) -> str | None:
    """Why the Triton kernels cannot take what they are expected to, or failed for before; None if they can."""
    assert store.tail is not None
    keys, values = store.tail.buffers
    return refusal(request.queries, keys, values) or fallback.failures.get(_signature(store, request))


class DequantisingPath:
    """Dequantises a layer's past for one call, and takes the path of a store that holds it like that."""

    def __init__(self) -> None:
        self._path: Path | None = None

    def __call__(self, store: QuantisedStore, request: AttentionRequest) -> Tensor:
        """Attend; see `AttentionPlan.attend`."""
        dequantised = store.dequantised()
        if self._path is None:
            self._path = choose(dequantised, request)
        return self._path(dequantised, request)


class KernelPath:
    """The Triton kernels for stores of one kind, and the plain path where they turn out not to run.

    Args:
        compiled_for: what the kernels are compiled for.
        launch: a `TileLaunch` for these sizes.
    """

    def __init__(self, compiled_for: Hashable, launch: Callable[[RaggedStore, AttentionRequest], Tensor]) -> None:
        self._compiled_for, self._launch = compiled_for, launch

    def __call__(self, store: RaggedStore, request: AttentionRequest) -> Tensor:
        """Attend; see `AttentionPlan.attend`."""
        output = fallback.run(self._compiled_for, None, self._launch, store, request)
        return attend_ragged(store, request) if output is None else output


def _signature(store: RaggedStore, request: AttentionRequest) -> tuple[Hashable, ...]:
    """What a kernel is compiled for; one that fails for this is not tried again for the same."""
    queries, (_, value_dim) = request.queries, store.kind[-2:]
    rows = queries.shape[1] // store.num_heads * queries.shape[2]
    most = max_rows(queries.element_size())
    return queries.device, queries.dtype, queries.shape[3], value_dim, min(block_rows(rows), most), rows > most
