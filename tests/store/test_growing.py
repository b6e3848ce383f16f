from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lavakv.store.growing import MIN_SPARE, GrowingKeyValues


def _ones(columns: int, value: float = 1.0) -> Tensor:
    return torch.full((2, 3, columns, 4), value)


def test_appending_copies_nothing_where_there_is_room() -> None:
    tail = GrowingKeyValues(_ones(5), _ones(5))
    tail.append(_ones(1), _ones(1))
    where, nbytes = (tail.keys.data_ptr(), tail.values.data_ptr()), tail.nbytes
    for _ in range(MIN_SPARE - 1):
        tail.append(_ones(1), _ones(1))
        assert (tail.keys.data_ptr(), tail.values.data_ptr()) == where
        assert tail.nbytes == nbytes
    tail.append(_ones(1), _ones(1))
    assert tail.nbytes > nbytes


def test_growth_is_geometric() -> None:
    """Ten thousand tokens move a few times as many columns as there are, whatever the start."""
    tail, moved, moves = GrowingKeyValues(_ones(1)[:1, :1], _ones(1)[:1, :1]), 0, 0
    one = _ones(1)[:1, :1]
    for _ in range(10_000):
        before, length = tail.nbytes, tail.length
        tail.append(one, one)
        if tail.nbytes != before:
            moved, moves = moved + length, moves + 1
    assert moved <= 3 * tail.length  # sum of a series with ratio 3/2
    assert moves < 20
    capacity = tail.nbytes // (2 * 4 * 4)
    assert capacity <= 1.5 * tail.length + MIN_SPARE


@pytest.mark.parametrize("start", [0, 1, 7])
@pytest.mark.parametrize("chunk", [1, 2, 33, 200])
def test_what_goes_in_comes_out(start: int, chunk: int) -> None:
    torch.manual_seed(0)
    keys, values = torch.randn(2, 3, start, 4), torch.randn(2, 3, start, 5)
    tail = GrowingKeyValues(keys.clone(), values.clone())
    for _ in range(4):
        new_keys, new_values = torch.randn(2, chunk, 3, 4).transpose(1, 2), torch.randn(2, 3, chunk, 10)[..., ::2]
        tail.append(new_keys, new_values)
        keys, values = torch.cat([keys, new_keys], dim=2), torch.cat([values, new_values], dim=2)
        assert torch.equal(tail.keys, keys)
        assert torch.equal(tail.values, values)
        assert tail.length == keys.shape[2]


def test_bytes_are_those_of_the_buffers() -> None:
    tail = GrowingKeyValues(_ones(5).bfloat16(), _ones(5)[..., :3].bfloat16().contiguous())
    assert tail.nbytes == 2 * 3 * 5 * (4 + 3) * 2
    tail.append(_ones(1), _ones(1)[..., :3])
    assert tail.nbytes == 2 * 3 * (5 + MIN_SPARE) * (4 + 3) * 2
    assert tail.keys.untyped_storage().nbytes() + tail.values.untyped_storage().nbytes() == tail.nbytes


def test_reserved_room_is_made_at_once() -> None:
    keys, values = torch.randn(2, 3, 5, 4), torch.randn(2, 3, 5, 2)
    tail = GrowingKeyValues(keys.clone(), values.clone())
    tail.reserve(100)
    assert tail.nbytes == 2 * 3 * 105 * (4 + 2) * 4
    where = [buffer.data_ptr() for buffer in tail.buffers]
    assert torch.equal(tail.keys, keys)
    assert torch.equal(tail.values, values)
    for _ in range(100):
        tail.append(_ones(1), _ones(1)[..., :2])
    assert [buffer.data_ptr() for buffer in tail.buffers] == where
    tail.reserve(0)
    assert [buffer.data_ptr() for buffer in tail.buffers] == where
    tail.append(_ones(1), _ones(1)[..., :2])
    assert tail.length == 106
    tail.reserve(MIN_SPARE)  # there is room for some of it already
    assert tail.buffers[0].shape[2] >= 106 + MIN_SPARE


def test_columns_written_at_a_place_that_a_tensor_says() -> None:
    tail, twin = (GrowingKeyValues(_ones(5), _ones(5)) for _ in range(2))
    tail.reserve(6)
    column = torch.tensor([5])
    for width in (1, 2, 3):
        new_keys, new_values = torch.randn(2, width, 3, 4).transpose(1, 2), torch.randn(2, 3, width, 4)
        tail.write_at(column, new_keys, new_values)
        tail.write_at(column, new_keys, new_values)  # again: nothing moved
        twin.append(new_keys, new_values)
        column += width
        assert tail.length == 5
    tail.advance(6)
    assert torch.equal(tail.keys, twin.keys)
    assert torch.equal(tail.values, twin.values)
