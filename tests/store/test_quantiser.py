"""Vectors in 8 and 4 bits: how far off they are, what they take, and that a row depends on nothing but its vector."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lavakv import UnsupportedError
from lavakv.store import quantiser as module
from lavakv.store.quantiser import Quantiser, check_quantisable, check_sizes
from tests.errors import assert_all_parts

BITS = pytest.mark.parametrize("bits", [8, 4])
DIMS = (8, 16, 24, 64, 80, 96, 128)
quantisers = st.builds(Quantiser, st.sampled_from([8, 4]), st.sampled_from(DIMS))


def _vectors(quantiser: Quantiser, entries: int, seed: int = 0) -> Tensor:
    """Of very different lengths, with a channel a hundred times the others, as keys have."""
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(entries, quantiser.dim, generator=generator)
    vectors[:, 3] *= 100
    return vectors * 10 ** torch.empty(entries, 1).uniform_(-6, 6, generator=generator)


def _hadamard(size: int) -> Tensor:
    matrix = torch.ones(1, 1, dtype=torch.float64)
    while len(matrix) < size:
        matrix = torch.cat([torch.cat([matrix, matrix], dim=1), torch.cat([matrix, -matrix], dim=1)]) / 2**0.5
    return matrix


@given(quantisers, st.integers(0, 20), st.integers(0, 2**32 - 1))
def test_a_number_is_off_by_half_a_step(quantiser: Quantiser, entries: int, seed: int) -> None:
    """In the rotated channels: half of the distance of two codes, which the group's largest number sets."""
    vectors, size = _vectors(quantiser, entries, seed), quantiser.dim & -quantiser.dim
    found = quantiser.dequantise(quantiser.quantise(vectors), torch.float64)
    rotated = [
        (one.double().reshape(entries * quantiser.dim // size, size) @ _hadamard(size)).view(one.shape)
        for one in (vectors, found)
    ]
    groups = [one.reshape(one.numel() // quantiser.group_size, quantiser.group_size) for one in rotated]
    largest = groups[0].abs().amax(dim=1, keepdim=True)
    half_step = largest / (2**quantiser.bits - 1)
    lengths = vectors.double().norm(dim=1).repeat_interleave(quantiser.dim // quantiser.group_size)[:, None]
    # The scale is rounded to 8 bits, by which the outermost codes end early; float32 rounds sums of `size` numbers.
    allowed = half_step * (1 + 2**-7) + largest * 2**-8 + 2 * size * torch.finfo(torch.float32).eps * lengths
    assert bool(((groups[0] - groups[1]).abs() <= allowed).all())


@given(quantisers, st.integers(0, 2**32 - 1))
def test_quantising_again_changes_no_bit(quantiser: Quantiser, seed: int) -> None:
    rows = quantiser.quantise(_vectors(quantiser, 9, seed))
    for dtype in (torch.float32, torch.float64):
        assert quantiser.quantise(quantiser.dequantise(rows, dtype)).equal(rows)


@given(quantisers, st.integers(1, 30), st.integers(1, 7), st.integers(0, 2**32 - 1))
def test_a_row_depends_on_its_vector_alone(quantiser: Quantiser, entries: int, block: int, seed: int) -> None:
    """Not on the vectors beside it, nor on blocks: both stores quantise them in different company."""
    vectors = _vectors(quantiser, entries, seed)
    rows = quantiser.quantise(vectors)
    back = quantiser.dequantise(rows, torch.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MAX_BLOCK_ELEMENTS", block * quantiser.dim)
        assert quantiser.quantise(vectors).equal(rows)
        assert quantiser.dequantise(rows, torch.float32).equal(back)
    alone = [quantiser.quantise(vector[None]) for vector in vectors]
    assert torch.cat(alone).equal(rows)
    assert torch.cat([quantiser.dequantise(row, torch.float32) for row in alone]).equal(back)


@pytest.mark.parametrize(
    ("bits", "dim", "row_bytes"),
    [(8, 64, 64 + 4), (4, 64, 32 + 4), (8, 128, 128 + 8), (4, 80, 40 + 10), (4, 8, 4 + 2), (8, 24, 24 + 6)],
)
def test_bytes_of_a_row_are_those_of_codes_and_scales(bits: int, dim: int, row_bytes: int) -> None:
    quantiser = Quantiser(bits, dim)
    rows = quantiser.quantise(torch.randn(5, dim))
    assert rows.dtype == torch.uint8
    assert rows.shape == (5, row_bytes)
    assert quantiser.row_bytes == row_bytes
    assert rows.untyped_storage().nbytes() == 5 * row_bytes


@BITS
def test_all_codes_are_used(bits: int) -> None:
    """As many different numbers as codes: no bit is lost in packing."""
    quantiser = Quantiser(bits, 64)
    rows = quantiser.quantise(torch.randn(400, 64, generator=torch.Generator().manual_seed(0)))
    codes = rows[:, : quantiser.code_bytes]
    if bits == 4:
        codes = torch.stack([codes & 15, codes >> 4])
        assert [len(half.unique()) for half in codes] == [16, 16]
    assert len(codes.unique()) == 2**bits


@BITS
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_zero_stays_zero_and_what_is_no_number_stays_in_its_row(bits: int, dtype: torch.dtype) -> None:
    vectors = torch.randn(4, 16).to(dtype)
    vectors[1] = 0
    vectors[2, 5], vectors[3, 6] = torch.nan, torch.inf
    found = Quantiser(bits, 16).quantised_once(vectors)
    assert found.dtype == dtype
    assert not found[1].any()
    assert bool(found[:2].isfinite().all())
    assert not found[2:].isfinite().any()


@BITS
def test_the_largest_numbers_of_bfloat16_and_the_smallest_fit(bits: int) -> None:
    for size in (1e37, 1e-37):
        vectors = size * torch.randn(50, 16, generator=torch.Generator().manual_seed(0))
        relative = (Quantiser(bits, 16).quantised_once(vectors) / size - vectors / size).abs()
        assert float(relative.max()) < 5 / 2 ** (bits - 1)


def test_a_quantised_vector_is_no_view_and_the_source_is_left_alone() -> None:
    vectors = torch.randn(3, 8)
    before = vectors.clone()
    found = Quantiser(8, 8).quantised_once(vectors)
    found.zero_()
    assert vectors.equal(before)


def test_sizes_and_dtypes_that_do_not_fit_are_named() -> None:
    check_sizes(DIMS)
    with pytest.raises(UnsupportedError, match="kv_bits: expected heads whose size is a multiple of 8") as caught:
        check_sizes((64, 20))
    assert_all_parts(caught.value, got="heads of 20")
    good = torch.zeros(1, 1, 1, 8)
    for bad in (good.int(), good.bool(), good.to(torch.float8_e4m3fn)):
        with pytest.raises(UnsupportedError, match="kv_bits: expected keys and values in float64") as caught:
            check_quantisable(good, bad)
        assert_all_parts(caught.value, got=str(bad.dtype))
    with pytest.raises(UnsupportedError, match="heads of 12"):
        check_quantisable(good, torch.zeros(1, 1, 1, 12))
