"""One layer's attention alone."""

from __future__ import annotations

import pytest
import torch

from lavakv.attention import attend
from lavakv.bench.attention_part import AttentionPart
from lavakv.bench.machine import Machine
from lavakv.bench.ragged_case import LayerShape, RaggedCase, skewed_counts
from lavakv.bench.settings import Setting

SHAPE = LayerShape(query_heads=4, kv_heads=2, head_dim=16, dtype=torch.float32, device=torch.device("cpu"))
MACHINE = Machine("made up", "cpu", 1, 1e9, 1e9, "float32")


@pytest.mark.parametrize("setting", [Setting(300, 3, 64), Setting(70, 1, 64), Setting(50, 1, 64), Setting(300, 1, 33)])
def test_counts_are_exact_and_skewed(setting) -> None:
    counts = skewed_counts(setting, heads=8, window=32, seed=1)
    assert len(counts) == setting.batch_size
    assert {sum(row) for row in counts} == {8 * (setting.held - 32)}
    assert all(0 <= count <= setting.tokens - 32 for row in counts for count in row)
    if setting.held - 32 < setting.tokens - 32 and setting.held > 40:
        assert all(max(row) > min(row) for row in counts)


def test_the_made_up_layer_holds_what_it_says_and_is_answered_right() -> None:
    case = RaggedCase.made_up(SHAPE, Setting(300, 2, 64), window=32, seed=5)
    lengths = [keys.shape[0] for keys, _ in case.segments()]
    assert sum(lengths) == 2 * 2 * (64 + 1)  # one token was generated since
    exact = RaggedCase.made_up(SHAPE, Setting(300, 2, 64), window=32, seed=5).expected()
    assert attend(case.store, case.request).shape == exact.shape == (2, 4, 1, 16)
    assert (attend(case.store, case.request) - exact).abs().max() < 2e-6


def test_the_record() -> None:
    record = AttentionPart(SHAPE, Setting(200, 2, 48), window=32).measure(MACHINE)
    assert {"full_flash", "full_flash_packed", "cut_flash", "masked", "masked_fake_keys", "lavakv"} <= set(
        record["contenders"]
    )
    lava, full = record["contenders"]["lavakv"], record["contenders"]["full_flash"]
    assert lava["nbytes"] == 2 * 2 * 48 * 2 * 16 * 4
    assert full["nbytes"] == 2 * 2 * 200 * 2 * 16 * 4
    assert lava["bytes_per_second"] == lava["nbytes"] / lava["eager_seconds"]
    assert record["bandwidth_fraction"] == lava["bandwidth_fraction"] == lava["bytes_per_second"] / 1e9
    assert record["speedup_over_full"] > 0
    assert record["errors"]["lavakv"] < 2e-6
    assert record["longest_over_mean"] > 1
    if not torch.cuda.is_available():
        assert "torch_varlen" in record["left_out"]
        assert lava["graph_seconds"] is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_record_on_a_gpu() -> None:
    shape = LayerShape(8, 2, 128, torch.bfloat16, torch.device("cuda"))
    record = AttentionPart(shape, Setting(2048, 2, 256), window=32).measure(MACHINE)
    assert record["contenders"]["full_flash"]["graph_seconds"] > 0
    same = record["errors"]
    assert all(error <= 2 * max(same["lavakv"], same.get("torch_varlen", 0.0)) for error in same.values())
