"""Attention over pages: sequences of unequal length and of several new tokens, against float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.attention.interpreter import repaired_interpreter  # first: it skips where Triton is missing

from lavakv.attention import pages  # isort: skip
from lavakv.attention.pages import PagedSequences, attend_one_by_one, attend_to_pages, split

DTYPES = [torch.float32, torch.bfloat16]
LENGTHS = [40, 3, 1, 64, 17, 90]


def paged(
    lengths: list[int], new: list[int], heads: int, page: int, dim: int, dtype: torch.dtype, group: int = 3
) -> tuple[Tensor, Tensor, Tensor, PagedSequences]:
    """Queries, keys, values and where they are; blocks in random order, and NaN wherever nothing may be read."""
    torch.manual_seed(0)
    tables_of = [max(lengths[row : row + heads]) for row in range(0, len(lengths), heads)]
    held = [-(-length // page) for length in tables_of]
    tables = torch.full((len(held), max(held)), 10**6, dtype=torch.int32)  # outside: no kernel may follow it
    order = torch.randperm(sum(held)).split(held)
    both = torch.full((sum(held), heads, page, 2 * dim), float("nan"), dtype=dtype)
    for row, own in enumerate(order):
        tables[row, : len(own)] = own
    for sequence, length in enumerate(lengths):
        for entry in range(length):
            block = int(tables[sequence // heads, entry // page])
            both[block, sequence % heads, entry % page] = torch.randn(2 * dim).to(dtype)
    starts = torch.tensor([0, *new], dtype=torch.int32).cumsum(0, dtype=torch.int32)
    sequences = PagedSequences(tables, torch.tensor(lengths, dtype=torch.int32), starts, max(new))
    queries = torch.randn(sum(new), group, dim).to(dtype)
    return queries, both[..., :dim], both[..., dim:], sequences


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("new", "heads", "page", "dim", "min_split"),
    [
        ([1] * 6, 1, 16, 32, 512),
        ([1] * 6, 1, 16, 64, 32),  # several programs a sequence, of which some see nothing
        ([1] * 6, 2, 32, 40, 32),
        ([40, 2, 1, 9, 16, 5], 1, 16, 32, 32),  # blocks of rows that end before their sequence does
    ],
)
def test_within_twice_the_error_of_pytorch(new, heads, page, dim, min_split, dtype, monkeypatch) -> None:
    monkeypatch.setattr(pages, "MIN_SPLIT", min_split)
    queries, keys, values, sequences = paged(LENGTHS, new, heads, page, dim, dtype)
    exact = attend_one_by_one(queries.double(), keys.double(), values.double(), sequences, dim**-0.5)
    plain = attend_one_by_one(queries, keys, values, sequences, dim**-0.5)
    with repaired_interpreter():
        found = attend_to_pages(queries, keys, values, sequences, dim**-0.5)
    assert found.dtype == dtype
    error, of_pytorch = (float((one.double() - exact).abs().max()) for one in (found, plain))
    assert error <= 2 * of_pytorch


def test_the_kernel_is_what_ran(monkeypatch) -> None:
    def fail(*_arguments: object) -> None:
        raise AssertionError("not the kernel")

    monkeypatch.setattr(pages, "attend_one_by_one", fail)
    queries, keys, values, sequences = paged([5, 9], [1, 1], 1, 16, 32, torch.float32)
    with repaired_interpreter():
        attend_to_pages(queries, keys, values, sequences, 1.0)


def test_a_row_sees_nothing_behind_itself() -> None:
    """The last of several new tokens is as if it came alone, and a later entry changes no earlier row."""
    queries, keys, values, sequences = paged([20], [6], 1, 16, 32, torch.float32)
    with repaired_interpreter():
        together = attend_to_pages(queries, keys, values, sequences, 0.2)
        one = sequences._replace(starts=torch.tensor([0, 1], dtype=torch.int32), most_new=1)
        for token in range(6):
            shorter = one._replace(lengths=torch.tensor([15 + token], dtype=torch.int32))
            alone = attend_to_pages(queries[token : token + 1], keys, values, shorter, 0.2)
            torch.testing.assert_close(alone[0], together[token])


def test_long_sequences_are_split_in_decode_steps_only() -> None:
    assert split(512, 1) == (1, 512)
    assert split(4096, 1) == (8, 512)
    assert split(10**6, 1) == (-(-(10**6) // 16384), 16384)
    assert split(4096, 5) == (1, 4096)
