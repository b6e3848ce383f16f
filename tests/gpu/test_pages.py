"""Attention over pages on a GPU: decode steps and several new tokens, against float64."""

from __future__ import annotations

import pytest
import torch

from lavakv.attention import pages
from lavakv.attention.pages import PagedSequences, attend_one_by_one, attend_to_pages

if not torch.cuda.is_available():
    pytest.skip("needs a GPU", allow_module_level=True)
pytest.importorskip("triton", reason="Triton is not installed")

SEQUENCES, PAGE, GROUP = 24, 32, 4


@pytest.mark.parametrize("most_new", [1, 40])
@pytest.mark.parametrize("dim", [64, 80, 128, 256])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_within_twice_the_error_of_pytorch(dtype, dim, most_new, monkeypatch) -> None:
    torch.manual_seed(0)
    lengths = torch.randint(41, 5000, (SEQUENCES,))
    new = torch.randint(1, most_new + 1, (SEQUENCES,))
    held = -(-lengths // PAGE)
    tables = torch.full((SEQUENCES, int(held.max())), 10**6, dtype=torch.int32)  # outside: no kernel may follow it
    order = torch.randperm(int(held.sum()), dtype=torch.int32)
    tables[torch.arange(tables.shape[1]) < held[:, None]] = order
    both = torch.randn(len(order), 1, PAGE, 2 * dim, device="cuda").to(dtype)
    for own, length in zip(order.split(held.tolist()), lengths.tolist(), strict=True):
        both[int(own[-1]), 0, (length - 1) % PAGE + 1 :] = float("nan")
    keys, values = both.chunk(2, dim=-1)
    starts = torch.zeros(SEQUENCES + 1, dtype=torch.int32)
    starts[1:] = new.cumsum(0)
    on_device = (one.cuda() for one in (tables, lengths.int(), starts))
    sequences = PagedSequences(*on_device, int(new.max()))
    queries = torch.randn(int(new.sum()), GROUP, dim, device="cuda").to(dtype)
    exact = attend_one_by_one(queries.double(), keys.double(), values.double(), sequences, dim**-0.5)
    plain = attend_one_by_one(queries, keys, values, sequences, dim**-0.5)
    monkeypatch.setattr(pages, "attend_one_by_one", None)  # the kernel must serve it
    found = attend_to_pages(queries, keys, values, sequences, dim**-0.5)
    error, of_pytorch = (float((one.double() - exact).abs().max()) for one in (found, plain))
    assert error <= 2 * of_pytorch
