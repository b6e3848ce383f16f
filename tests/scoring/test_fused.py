"""The window's mean attention by the Triton kernels, under Triton's CPU interpreter, and when they are taken."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.attention.interpreter import repaired_interpreter  # first: it skips where Triton is missing

from lavakv.scoring import fused  # isort: skip
from lavakv.kernels import SWITCH, Fallback, device_unsupported_reason
from lavakv.scoring.blocks import WindowRows
from lavakv.scoring.fused import fused_mean_attention
from lavakv.scoring.triton import launch
from lavakv.scoring.window import ScoringWindow

EPSILON = torch.finfo(torch.float32).eps
KERNEL = "lavakv.scoring.triton.kernel"


@pytest.fixture(autouse=True)
def _like_a_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let CPU tensors be considered for the kernels, with nothing warned of and nothing failed yet."""
    monkeypatch.setattr(fused, "fallback", Fallback("scoring"))
    fused.fallback.on_cpu = True
    device_unsupported_reason.cache_clear()
    with repaired_interpreter():
        yield
    device_unsupported_reason.cache_clear()


def window(
    tokens: int, dtype: torch.dtype = torch.float32, *, heads: int = 2, group: int = 3, rows: int = 5, dim: int = 16,
    sinks: bool = False,
) -> ScoringWindow:  # fmt: skip
    """Keys and queries amid memory full of NaN, heads and tokens strided as models make them."""
    generator = torch.Generator().manual_seed(tokens + dim)

    def noise(columns: int, count: int) -> Tensor:
        larger = torch.full((columns + 70, count, dim), torch.nan, dtype=dtype)
        larger[35:-35] = torch.randn(columns, count, dim, generator=generator).to(dtype)
        return larger[35:-35].transpose(0, 1)

    queries = noise(rows, heads * group)
    logits = torch.randn(heads, group, generator=generator).to(dtype) if sinks else None
    chunk = noise(tokens, heads)
    return ScoringWindow(queries.unflatten(0, (heads, group)), [chunk], [chunk], dim**-0.5, sinks=logits)


def rows_of(one: ScoringWindow) -> WindowRows:
    return WindowRows(one.queries, one.keys, one.scaling, one.softcap, one.sinks, one.visible)


def plain(one: ScoringWindow) -> Tensor:
    """The plain path's answer."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fused.fallback, "on_cpu", False)
        return replace(one).mean_attention


def assert_as_good_as_plain(one: ScoringWindow) -> None:
    """At most twice the plain path's error in float32, and 4 ulp of the largest entry for its own rounding."""
    wide = replace(one, queries=one.queries.double(), keys=[one.keys[0].double()])
    logits = torch.einsum("hgwd,hnd->hgwn", wide.queries, wide.keys[0]) * one.scaling
    causal = torch.ones(logits.shape[2:], dtype=torch.bool).tril(one.num_evictable)
    logits = logits.masked_fill(~causal, -torch.inf)
    if one.sinks is not None:
        logits = torch.cat([logits, one.sinks.double()[..., None, None].expand(*logits.shape[:3], 1)], dim=-1)
    exact = logits.softmax(dim=-1)[..., : one.num_evictable].mean(dim=2)
    answer = fused_mean_attention(rows_of(one), one.num_evictable)
    assert answer is not None
    assert answer.dtype == torch.float32
    assert answer.shape == exact.shape
    evidence = float((plain(one).double() - exact).abs().max())
    assert float((answer.double() - exact).abs().max()) <= 2 * evidence + 4 * EPSILON * float(exact.max())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("rows", "dim"), [(1, 64), (5, 80), (32, 128)])
def test_dtypes_and_sizes(dtype: torch.dtype, rows: int, dim: int) -> None:
    assert_as_good_as_plain(window(rows + 150, dtype, rows=rows, dim=dim))


@settings(max_examples=12)
@given(data=st.data())
def test_any_shape(data: st.DataObject) -> None:
    """One evictable token, windows of other sizes than powers of two, groups of one, sinks, many splits."""
    rows = data.draw(st.integers(1, 19))
    one = window(
        rows + data.draw(st.integers(1, 200)),
        heads=data.draw(st.integers(1, 2)),
        group=data.draw(st.sampled_from([1, 2, 3])),
        rows=rows,
        dim=data.draw(st.sampled_from([1, 5, 16])),
        sinks=data.draw(st.booleans()),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "_num_processors", lambda _: data.draw(st.sampled_from([1, 8, 64])))
        assert_as_good_as_plain(one)


def test_logits_far_apart_neither_overflow_nor_vanish() -> None:
    one = window(90)
    assert_as_good_as_plain(replace(one, queries=one.queries * 1e3))


def test_the_last_dimension_may_be_strided() -> None:
    one = window(90)
    expected = fused_mean_attention(rows_of(one), one.num_evictable)
    strided = replace(one, keys=[one.keys[0].transpose(1, 2).contiguous().transpose(1, 2)])
    answer = fused_mean_attention(rows_of(strided), one.num_evictable)
    assert answer is not None
    assert expected is not None
    assert torch.equal(answer, expected)


def test_scores_take_the_kernels() -> None:
    one = window(90)
    assert torch.equal(one.mean_attention, fused_mean_attention(rows_of(one), one.num_evictable))  # type: ignore[arg-type]
    assert set(one._computed) == {"mean_attention"}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("case", ["softcap", "visible", "chunks", "nothing", "switch", "cpu"])
def test_where_the_plain_path_is_expected_nothing_is_said(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    one = window(40)
    changed = {
        "softcap": replace(one, softcap=5.0),
        "visible": replace(one, visible=torch.ones(5, 40, dtype=torch.bool)),
        "chunks": replace(one, keys=list(one.keys[0].split(20, dim=1)), values=list(one.keys[0].split(20, dim=1))),
        "nothing": window(5),
    }.get(case, one)
    if case == "switch":
        monkeypatch.setenv(SWITCH, "0")
    if case == "cpu":
        monkeypatch.setattr(fused.fallback, "on_cpu", False)
    assert fused_mean_attention(rows_of(changed), changed.num_evictable) is None
    assert changed.mean_attention.shape == (2, 3, changed.num_evictable)


def assert_plain_with_one_warning(one: ScoringWindow, reason: str) -> None:
    with pytest.warns(UserWarning, match="scoring takes the plain path") as caught:
        answers = [replace(one).mean_attention for _ in range(3)]
    assert len(caught) == 1
    assert reason in str(caught[0].message)
    assert all(torch.equal(answer, plain(one)) for answer in answers)


def test_refusals_are_warned_of_once() -> None:
    assert_plain_with_one_warning(window(40, torch.float64), "torch.float64 is neither")
    one = window(40)
    assert_plain_with_one_warning(replace(one, queries=one.queries.half()), "queries and keys are torch.float16")
    assert_plain_with_one_warning(window(40, dim=320), "head size 320 is over 256")
    assert_plain_with_one_warning(window(140, rows=40), "a window of 40 tokens is over 32")


def test_wanted_gradients() -> None:
    one = window(40)
    one.queries.requires_grad_()
    assert_plain_with_one_warning(one, "gradients are wanted")


def test_triton_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "triton"] + ["triton"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, KERNEL, raising=False)
    assert_plain_with_one_warning(window(40), "Triton cannot be loaded (ModuleNotFoundError")


@pytest.mark.parametrize(
    ("hip", "capability", "reason"),
    [("6.4", (9, 0), "ROCm build"), (None, (7, 5), "compute capability 7.5 is below 8.0")],
)
def test_devices_that_are_not_tried(
    monkeypatch: pytest.MonkeyPatch, hip: str | None, capability: tuple[int, int], reason: str
) -> None:
    monkeypatch.setattr(torch.version, "hip", hip)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
    assert reason in str(device_unsupported_reason(torch.device("cuda", 0), fused.MODULE))


def test_a_kernel_that_does_not_compile_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def broken(*_: object) -> None:
        calls.append(1)
        raise RuntimeError("PTX was compiled\nwith another version")

    monkeypatch.setattr(fused, "_kernels", broken)
    assert_plain_with_one_warning(window(40), "the kernel does not run here (RuntimeError: PTX was compiled)")
    assert len(calls) == 1
    with warnings.catch_warnings(record=True):
        assert window(40, dim=24).mean_attention is not None
    assert len(calls) == 2, "another kernel gets its chance"


def test_a_full_device_is_no_reason_for_the_plain_path(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(fused, "_kernels", full)
    with pytest.raises(torch.OutOfMemoryError):
        fused_mean_attention(rows_of(window(40)), 35)
    assert fused.fallback.failures == {}
