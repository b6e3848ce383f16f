from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lavakv.attention import cpu
from lavakv.attention.cpu import attend_part_cpu_flash
from lavakv.attention.partial import Partial, attend_part, merge

EPSILON = torch.finfo(torch.float64).eps


@given(st.lists(st.integers(1, 6), min_size=1, max_size=5), st.booleans(), st.integers(0, 2**32 - 1))
def test_merged_parts_are_the_whole(sizes: list[int], with_sinks: bool, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    queries, keys, values = noise(2, 3, 5), noise(2, sum(sizes), 5), noise(2, sum(sizes), 4)
    sinks = noise(2, 1) if with_sinks else None
    parts = [
        attend_part(queries, k, v, 0.5, None, None)
        for k, v in zip(keys.split(sizes, dim=1), values.split(sizes, dim=1), strict=True)
    ]
    logits = queries @ keys.transpose(1, 2) * 0.5
    if sinks is not None:
        logits = torch.cat([logits, sinks[:, :, None].expand(2, 3, 1)], dim=-1)
    expected = logits.softmax(dim=-1)[..., : sum(sizes)] @ values
    # Every part rounds its log-sum-exp (a number as large as a logit, or one), its output and its product.
    roundings = (len(sizes) + 2) * (4 + float(logits.abs().max()))
    assert float((merge(parts, sinks) - expected).abs().max()) <= roundings * EPSILON * float(values.abs().max())


@pytest.mark.parametrize("first", [True, False])
def test_a_part_that_saw_nothing_adds_nothing(first: bool) -> None:
    torch.manual_seed(0)
    something = Partial(torch.randn(2, 3, 4), torch.randn(2, 3))
    nothing = Partial(torch.zeros(2, 3, 4), torch.full((2, 3), -torch.inf))
    parts = [nothing, something] if first else [something, nothing]
    assert torch.equal(merge(parts, None), something.output)


def test_logits_far_apart_neither_overflow_nor_vanish() -> None:
    huge = Partial(torch.ones(1, 1, 2), torch.full((1, 1), 1e4))
    tiny = Partial(-torch.ones(1, 1, 2), torch.full((1, 1), -1e4))
    assert merge([tiny, huge], torch.tensor([-1e4])).tolist() == [[[1.0, 1.0]]]
    assert merge([huge, huge], None).tolist() == [[[1.0, 1.0]]]


def test_a_row_under_a_full_mask_sees_nothing() -> None:
    mask = torch.tensor([[True, False], [False, False]])
    values = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    part = attend_part(torch.ones(2, 3), torch.ones(2, 3), values, 1.0, None, mask)
    assert part.output.tolist() == [[1.0, 2.0], [0.0, 0.0]]
    assert part.log_sum_exp.tolist() == [3.0, -torch.inf]


@pytest.mark.skipif(cpu._OPERATOR is None, reason="this PyTorch has no such operator")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("rows", "entries", "dim"), [(1, 1, 8), (7, 33, 5), (3, 600, 80)])
@pytest.mark.parametrize("masked", [False, True])
def test_the_private_operator_returns_the_log_sum_exp(
    dtype: torch.dtype, rows: int, entries: int, dim: int, masked: bool
) -> None:
    torch.manual_seed(0)
    queries, keys, values = (torch.randn(2, 3, size, dim, dtype=dtype) for size in (rows, entries, entries))
    mask = torch.rand(2, 1, rows, entries) < 0.5 if masked else None
    if mask is not None:
        mask[..., 0] = True
    exact = attend_part(queries.double(), keys.double(), values.double(), 0.3, None, mask)
    plain = attend_part(queries, keys, values, 0.3, None, mask)
    flash = attend_part_cpu_flash(queries, keys, values, 0.3, mask)
    epsilon = torch.finfo(dtype).eps
    for mine, theirs, truth in zip(flash, plain, exact, strict=True):
        error = float((theirs.double() - truth).abs().max())
        # 4 ulp of the largest: its own exponential, a rescaling by the running maximum, the quotient, the rounding.
        assert float((mine.double() - truth).abs().max()) <= 2 * error + 4 * epsilon * float(truth.abs().max())


@pytest.mark.skipif(cpu._OPERATOR is None, reason="this PyTorch has no such operator")
def test_a_mask_does_not_go_to_the_users_default_device() -> None:
    queries, keys, values = (torch.randn(1, 2, n, 8) for n in (3, 5, 5))
    mask = torch.ones(1, 1, 3, 5, dtype=torch.bool).tril(2)
    expected = attend_part_cpu_flash(queries, keys, values, 0.3, mask)
    with torch.device("meta"):
        flash = attend_part_cpu_flash(queries, keys, values, 0.3, mask)
    assert torch.equal(flash.output, expected.output)
