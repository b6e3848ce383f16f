from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lavakv.attention import attend, cpu
from lavakv.attention import native as decode
from lavakv.store import blocks
from lavakv.store.masked import MaskedStore
from lavakv.store.ragged import RaggedStore
from tests.attention.cases import DTYPES, Case, cases

new_empty = torch.Tensor.new_empty


@contextmanager
def conditions(with_operator: bool, poisoned: bool = True, with_kernel: bool = False) -> Iterator[None]:
    """With PyTorch's private operator or without, with the C kernel or without; fresh memory full of NaN:
    reading spare room shows."""

    def poisonous(self: Tensor, *args, **kwargs) -> Tensor:
        fresh = new_empty(self, *args, **kwargs)
        return fresh.fill_(torch.nan) if fresh.is_floating_point() else fresh

    with pytest.MonkeyPatch.context() as patch:
        if not with_kernel:
            patch.setattr(decode, "kernel", lambda: None)
        if not with_operator:
            patch.setattr(cpu, "_OPERATOR", None)
        if poisoned:
            patch.setattr(torch.Tensor, "new_empty", poisonous)
        yield


def assert_exact(case: Case, answer: Tensor) -> None:
    exact = case.exact()
    assert answer.dtype == case.request.queries.dtype
    assert answer.shape == exact.shape
    difference = float((answer.double() - exact).abs().max())  # NaN fails
    assert difference <= case.bound()


@pytest.mark.parametrize("with_operator", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=60)
@given(data=st.data())
def test_ragged_attention_is_exact(dtype: torch.dtype, with_operator: bool, data: st.DataObject) -> None:
    case = data.draw(cases(dtype))
    with conditions(with_operator):
        assert_exact(case, attend(case.fill(RaggedStore()), case.request))


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=60)
@given(data=st.data())
def test_ragged_attention_is_exact_in_small_blocks(dtype: torch.dtype, data: st.DataObject) -> None:
    """Many blocks, with borders everywhere: what large caches have."""
    case, most = data.draw(cases(dtype)), data.draw(st.integers(1, 6))
    with conditions(with_operator=True), pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "MIN_ENTRIES", 1)
        patch.setattr(blocks, "MAX_ENTRIES", most)
        assert_exact(case, attend(case.fill(RaggedStore()), case.request))


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=40)
@given(data=st.data())
def test_masked_attention_is_exact(dtype: torch.dtype, data: st.DataObject) -> None:
    case = data.draw(cases(dtype))
    with conditions(with_operator=True):
        assert_exact(case, attend(case.fill(MaskedStore()), case.request))


@settings(max_examples=40)
@given(cases(torch.float64))
def test_the_order_of_entries_does_not_matter(case: Case) -> None:
    """Survivors stand in rank order; attention may not care."""
    store = case.fill(RaggedStore())
    shuffled = [torch.cat([ranked[:, :0], ranked], dim=1) for ranked in case.ranked]
    for row, counts in enumerate(case.counts):
        for head, count in enumerate(counts):
            shuffled[row][head, :count] = case.ranked[row][head, :count].flip(0)
    case.ranked = shuffled
    assert_exact(case, attend(store, case.request))
    assert_exact(case, attend(case.fill(RaggedStore()), case.request))


@pytest.mark.skipif(cpu._OPERATOR is None, reason="this PyTorch has no such operator")
def test_the_private_operator_is_used_where_it_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    operator = cpu._OPERATOR

    def counted(*args, **kwargs):
        calls.append(args)
        return operator(*args, **kwargs)

    monkeypatch.setattr(cpu, "_OPERATOR", counted)
    one = torch.ones(1, 1, 1, 8)
    assert cpu.cpu_flash_fits(one, one, one)
    cpu.attend_part_cpu_flash(one, one, one, 1.0, None)
    assert len(calls) == 1
    assert not cpu.cpu_flash_fits(one, one, one[..., :3])
    assert not cpu.cpu_flash_fits(one, one.double(), one)
    assert not cpu.cpu_flash_fits(one.long(), one.long(), one)
