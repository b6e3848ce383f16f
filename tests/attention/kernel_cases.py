"""Cases for the Triton kernels, the same on a GPU and under the interpreter."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from lavakv.attention import AttentionRequest, AttentionSettings
from lavakv.store.growing import GrowingKeyValues
from lavakv.store.past import RaggedPast
from lavakv.store.ragged import RaggedStore
from tests.attention.cases import Case, hidden_past, tail_mask

KERNEL_DTYPES = [torch.float32, torch.bfloat16, torch.float16]
HEAD_DIMS = [64, 80, 96, 128, 256]
SKEWED = [[0, 140], [1, 3]]  # an empty head, one entry, and one longer than a tile


def case(
    dtype: torch.dtype,
    head_dim: int,
    counts: list[list[int]] = SKEWED,
    *,
    group: int = 3,
    num_queries: int = 1,
    window: int = 4,
    softcap: float | None = None,
    sinks: bool = False,
    masked: bool = False,
    past_masked: bool = False,
) -> Case:
    """Random, of these sizes; `counts` are the survivors of each head of each sequence."""
    generator = torch.Generator().manual_seed(head_dim + num_queries)
    batch, heads, evictable = len(counts), len(counts[0]), max(map(max, counts)) + 2
    columns, tail = evictable + window + 1 + num_queries, window + 1 + num_queries

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).transpose(1, 2)

    ranked = [torch.stack([torch.randperm(evictable, generator=generator) for _ in range(heads)]) for _ in range(batch)]
    logits = torch.randn(heads * group, generator=generator).to(dtype) if sinks else None
    mask = tail_mask(generator, batch, num_queries, tail) if masked or num_queries > 1 else None
    past_mask = hidden_past(generator, batch, num_queries, evictable) if past_masked else None
    queries = noise(batch, num_queries, heads * group, head_dim)
    request = AttentionRequest(queries, AttentionSettings(head_dim**-0.5, softcap, logits), mask, past_mask)
    keys, values = noise(batch, columns, heads, head_dim), noise(batch, columns, heads, head_dim)
    return Case(keys, values, ranked, counts, window, request)


def in_float64(store: RaggedStore) -> RaggedStore:
    """A copy of an evicted store for exact answers."""
    past, tail = store.past, store.tail
    assert past is not None
    assert tail is not None
    twin = copy.copy(store)
    twin.past = RaggedPast(past.keys.double(), past.values.double(), past.columns, past.lengths())
    twin.tail = GrowingKeyValues(tail.keys.double(), tail.values.double())
    return twin


def typical(answer: Tensor, exact: Tensor) -> float:
    """Root mean square error; NaN where anything is NaN."""
    return float((answer.double() - exact).square().mean().sqrt())


def assert_as_good_as_pytorch(case: Case, answer: Tensor) -> None:
    """At most twice the largest error that PyTorch's attention makes in the same dtype on the same device.

    Devices, and ways to write attention, sum in different orders; which one PyTorch takes is not for us to choose. The
    exact answer is float64.
    """
    exact = case.exact()
    assert answer.device == exact.device
    assert answer.dtype == case.request.queries.dtype
    assert answer.shape == exact.shape
    assert typical(answer, exact) <= 2 * max(typical(other, exact) for other in case.pytorch())
