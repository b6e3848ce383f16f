"""Which attention a ragged store gets: the Triton kernels where they fit, the plain path everywhere else."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from lavakv.attention.ragged import attend_ragged
from lavakv.attention.request import AttentionRequest
from lavakv.attention.triton.fits import refusal
from lavakv.attention.triton.plan import max_rows
from lavakv.kernels import Fallback
from lavakv.store.ragged import RaggedStore

fallback = Fallback("decoding")


class Choice(NamedTuple):
    """A path through attention, and why the faster one was not taken if it was expected to be.

    Attributes:
        kernel: the Triton kernels, or the plain path?
        refusal: what to warn of; None where the plain path is what one would expect.
    """

    kernel: bool
    refusal: str | None = None


def choose(store: RaggedStore, request: AttentionRequest) -> Choice:
    """Pick the path for a request, without touching the device.

    The plain path is expected on anything but a CUDA device, with `LAVAKV_TRITON=0`, and for chunks of tokens.
    """
    assert store.tail is not None
    queries = request.queries
    if not fallback.expected_on(queries.device):
        return Choice(False)
    keys, values = store.tail.buffers
    if queries.shape[1] // store.num_heads * queries.shape[2] > max_rows(queries.element_size()):
        return Choice(False)
    reason = refusal(queries, keys, values) or fallback.failures.get(_signature(request, values))
    return Choice(reason is None, reason)


def attend_store(store: RaggedStore, request: AttentionRequest) -> Tensor:
    """Attend to a ragged store by the path that fits best; each reason for not taking the kernels is warned of once.

    Returns:
        `[B, query_heads, q, value_dim]` in the queries' dtype.
    """
    assert store.tail is not None
    choice = choose(store, request)
    if choice == (False, None):
        return attend_ragged(store, request)
    signature = _signature(request, store.tail.buffers[1])
    output = fallback.run(signature, choice.refusal, lambda: _attend_kernel(store, request))
    return attend_ragged(store, request) if output is None else output


def _attend_kernel(store: RaggedStore, request: AttentionRequest) -> Tensor:
    from lavakv.attention.triton.launch import Tail, attend_tiles  # loads Triton

    assert store.past is not None
    assert store.tail is not None
    return attend_tiles(store.past, Tail(*store.tail.buffers, store.tail.length), request)


def _signature(request: AttentionRequest, values: Tensor) -> tuple[object, ...]:
    """What a kernel is compiled for; one that fails for this is not tried again for the same."""
    queries = request.queries
    rows = queries.shape[1] // values.shape[1] * queries.shape[2]
    return queries.device, queries.dtype, queries.shape[3], values.shape[3], rows
