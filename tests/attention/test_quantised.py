"""Attention to a past in 8 and 4 bits: that of the numbers it holds, by the paths of a past in full precision."""

from __future__ import annotations

import gc
import warnings
import weakref
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lavakv.attention import attend, plan
from lavakv.kernels import Fallback
from lavakv.store import blocks
from lavakv.store.masked import MaskedStore
from lavakv.store.quantised import QuantisedStore
from lavakv.store.quantiser import Quantiser
from lavakv.store.ragged import RaggedStore
from tests.attention.cases import DTYPES, Case, cases
from tests.attention.kernel_cases import case
from tests.attention.test_stores import assert_exact, conditions

BITS = st.sampled_from([8, 4])


def quantised(example: Case, bits: int) -> Case:
    """The same question to what is left of the columns before the window."""

    def once(whole: Tensor) -> Tensor:
        past = whole[:, :, : example.ranked[0].shape[1]]
        vectors = past.reshape(past.shape[:3].numel(), past.shape[3])
        read = Quantiser(bits, past.shape[3]).quantised_once(vectors).view(past.shape)
        return torch.cat([read, whole[:, :, past.shape[2] :]], dim=2)

    return replace(example, keys=once(example.keys), values=once(example.values))


def filled(example: Case, bits: int) -> QuantisedStore:
    store = example.fill(QuantisedStore(bits))
    assert isinstance(store, QuantisedStore)
    return store


@pytest.mark.parametrize("with_kernel", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=40)
@given(data=st.data())
def test_attention_is_exact_on_what_is_held(dtype: torch.dtype, with_kernel: bool, data: st.DataObject) -> None:
    example, bits = data.draw(cases(dtype, (80, 16, 8), 24)), data.draw(BITS)
    with conditions(with_operator=True, with_kernel=with_kernel):
        for store in (filled(example, bits), example.fill(MaskedStore(bits))):
            assert_exact(quantised(example, bits), attend(store, example.request))


@settings(max_examples=40)
@given(cases(torch.float32, (16, 8), 8), BITS, st.integers(1, 6))
def test_plans_of_a_past_serve_every_step(example: Case, bits: int, most: int) -> None:
    """Blocks are planned at the first step; later ones find them with a past that was dequantised again."""
    with conditions(with_operator=True), pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "MIN_ENTRIES", 1)
        patch.setattr(blocks, "MAX_ENTRIES", most)
        store = filled(example, bits)
        assert store.past is not None
        answers = [attend(store, example.request) for _ in range(2)]
        assert_exact(quantised(example, bits), answers[0])
        assert answers[0].equal(answers[1])
        assert len(store.past._blocks) <= 1
        assert store.dequantised().past is not store.dequantised().past


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_path_is_warned_of(monkeypatch: pytest.MonkeyPatch, bits: int, dtype: torch.dtype) -> None:
    """Where kernels are expected they get the dequantised past, without a word; elsewhere nothing is expected."""
    launch = pytest.importorskip("lavakv.attention.triton.launch")
    example, launched = case(dtype, 64), []

    def taken(_: object, store: RaggedStore, request: object) -> Tensor:
        assert store.past is not None
        assert store.past.keys.dtype == dtype
        launched.append(store)
        return example.request.queries

    monkeypatch.setattr(launch.TileLaunch, "__call__", taken)
    monkeypatch.setattr(plan, "refusal", lambda *_: None)
    for on_cpu in (True, False):
        monkeypatch.setattr(plan, "fallback", Fallback("decoding"))
        plan.fallback.on_cpu = on_cpu
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            forward = plan.AttentionPlan()
            for _ in range(2):
                answer = forward.attend(filled(example, bits), example.request)
        assert len(launched) == 2
    assert_exact(quantised(example, bits), answer)


def test_nothing_dequantised_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither by the store nor by the forward's plan: one layer's past is in memory at a time."""
    alive: list[weakref.ref[Tensor]] = []
    original = Quantiser.dequantise

    def watched(self: Quantiser, rows: Tensor, dtype: torch.dtype) -> Tensor:
        found = original(self, rows, dtype)
        alive.append(weakref.ref(found))
        return found

    monkeypatch.setattr(Quantiser, "dequantise", watched)
    example = case(torch.float32, 64)
    forward, stores = plan.AttentionPlan(), [filled(example, 4) for _ in range(3)]
    before = [store.nbytes for store in stores]
    for store in stores:
        forward.attend(store, example.request)
        gc.collect()
        assert not [one for one in alive if one() is not None]
    assert len(alive) == 2 * len(stores)
    assert [store.nbytes for store in stores] == before
