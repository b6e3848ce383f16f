"""One layer's attention alone."""

from __future__ import annotations

import json

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from lavakv.attention import attend
from lavakv.bench.implementations import Implementation, Implementations
from lavakv.bench.layer_attention import LayerAttention
from lavakv.bench.machine import Machine
from lavakv.bench.ragged_case import LayerShape, RaggedCase, skewed_counts
from lavakv.bench.settings import Setting

SHAPE = LayerShape(query_heads=4, kv_heads=2, head_dim=16, dtype=torch.float32, device=torch.device("cpu"))
NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
PLACES = ["cpu", pytest.param("cuda", marks=NO_GPU)]
MACHINE = Machine("made up", "cpu", 1, 1e9, 1e9, "float32")


@pytest.mark.parametrize("setting", [Setting(300, 3, 64), Setting(70, 1, 64), Setting(50, 1, 64), Setting(300, 1, 33)])
def test_counts_are_exact_and_skewed(setting) -> None:
    counts = skewed_counts(setting, heads=8, window=32, seed=1)
    assert len(counts) == setting.batch_size
    assert {sum(row) for row in counts} == {8 * (setting.held - 32)}
    assert all(0 <= count <= setting.tokens - 32 for row in counts for count in row)
    if setting.held - 32 < setting.tokens - 32 and setting.held > 40:
        assert all(max(row) > min(row) for row in counts)


def _exact_and_plain(case: RaggedCase) -> tuple[torch.Tensor, torch.Tensor]:
    """The answer in float64, and PyTorch's own attention head by head in the layer's dtype."""
    queries, segments = case.request.queries, case.segments()
    grouped = queries.reshape(len(segments), -1, queries.shape[3])
    answers = []
    for dtype in (torch.float64, queries.dtype):
        heads = [
            scaled_dot_product_attention(q.to(dtype)[None], k.to(dtype)[None], v.to(dtype)[None])
            for q, (k, v) in zip(grouped, segments, strict=True)
        ]
        answers.append(torch.cat(heads).reshape(queries.shape).double())
    return answers[0], answers[1]


def _size(errors: torch.Tensor) -> float:
    """Root mean square: the largest of so few is chance."""
    return float(errors.pow(2).mean().sqrt())


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_made_up_layer_holds_what_it_says_and_is_answered_right(dtype, place) -> None:
    shape = SHAPE._replace(dtype=dtype, device=torch.device(place))
    case = RaggedCase.made_up(shape, Setting(300, 2, 64), window=32, seed=5)
    assert sum(keys.shape[0] for keys, _ in case.segments()) == 2 * 2 * (64 + 1)  # one token was generated since
    exact, plain = _exact_and_plain(case)
    allowed = 2 * _size(plain - exact)
    assert _size(attend(case.store, case.request).double() - exact) <= allowed
    assert _size(case.expected().double() - exact) <= allowed


def test_the_record() -> None:
    record = LayerAttention(SHAPE, Setting(200, 2, 48), window=32).measure(MACHINE).as_dict()
    assert {"full_flash", "full_flash_packed", "cut_flash", "masked", "masked_fake_keys", "lavakv"} <= set(
        record["contenders"]
    )
    lava, full = record["contenders"]["lavakv"], record["contenders"]["full_flash"]
    assert lava["nbytes"] == 2 * 2 * 48 * 2 * 16 * 4
    assert full["nbytes"] == 2 * 2 * 200 * 2 * 16 * 4
    assert lava["bytes_per_second"] == lava["nbytes"] / lava["eager_seconds"]
    assert record["bandwidth_fraction"] == lava["bandwidth_fraction"] == lava["bytes_per_second"] / 1e9
    assert record["speedup_over_full"] > 0
    case = RaggedCase.made_up(SHAPE, Setting(200, 2, 48), window=32, seed=0)
    assert record["errors"]["lavakv"] == (attend(case.store, case.request) - case.expected()).abs().max()
    assert record["longest_over_mean"] > 1
    if not torch.cuda.is_available():
        assert "torch_varlen" in record["left_out"]
        assert lava["graph_seconds"] is None


class BrokenKernelError(Exception):
    """What no way should be able to raise."""


def _broken(self: Implementations, *_: object, **__: object) -> Implementation:
    raise BrokenKernelError("no such kernel. Ask somebody else")


def test_others_may_fail_in_any_way(monkeypatch) -> None:
    monkeypatch.setattr(Implementations, "_masked", _broken)
    record = LayerAttention(SHAPE, Setting(200, 1, 48), window=32).measure(MACHINE).as_dict()
    assert record["left_out"]["masked"] == "BrokenKernelError: no such kernel"
    assert {"masked", "masked_fake_keys"}.isdisjoint(record["contenders"])
    json.dumps(record, allow_nan=False)


def test_that_lavakv_fails_is_an_error(monkeypatch) -> None:
    monkeypatch.setattr(Implementations, "_lavakv", _broken)
    with pytest.raises(BrokenKernelError):
        LayerAttention(SHAPE, Setting(200, 1, 48), window=32).measure(MACHINE)


def test_a_wrong_answer_still_goes_into_json(monkeypatch) -> None:
    monkeypatch.setattr("lavakv.bench.implementations.attend", lambda *args: torch.full_like(attend(*args), torch.nan))
    record = LayerAttention(SHAPE, Setting(200, 1, 48), window=32).measure(MACHINE).as_dict()
    assert record["errors"]["lavakv"] is None
    json.dumps(record, allow_nan=False)


@NO_GPU
def test_the_record_on_a_gpu() -> None:
    shape = LayerShape(8, 2, 128, torch.bfloat16, torch.device("cuda"))
    record = LayerAttention(shape, Setting(2048, 2, 256), window=32).measure(MACHINE).as_dict()
    assert record["contenders"]["full_flash"]["graph_seconds"] > 0
    assert record["contenders"]["lavakv"]["eager_seconds"] > 0
    assert record["contenders"]["masked_fake_keys"]["eager_seconds"] > 0
