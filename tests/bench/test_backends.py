"""PyTorch's attention kernels while something is measured."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch

from lavakv.bench import layer_attention, trial
from lavakv.bench.backends import BACKENDS, backend_names, without_cudnn
from lavakv.bench.layer_attention import LayerAttention
from lavakv.bench.machine import Machine
from lavakv.bench.ragged_case import LayerShape
from lavakv.bench.settings import BenchSettings, Setting
from lavakv.bench.trial import Trial

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
FLAGS = torch.backends.cuda


def _flags() -> tuple[bool, ...]:
    return (
        FLAGS.cudnn_sdp_enabled(),
        FLAGS.flash_sdp_enabled(),
        FLAGS.mem_efficient_sdp_enabled(),
        FLAGS.math_sdp_enabled(),
    )


def test_on_a_gpu_flash_comes_first_and_cudnn_never() -> None:
    before, order = _flags(), torch._C._get_sdp_priority_order()
    with without_cudnn(CUDA):
        assert _flags() == (False, True, True, True)
        assert torch._C._get_sdp_priority_order()[:3] == [int(backend) for backend in BACKENDS]
    assert _flags() == before
    assert torch._C._get_sdp_priority_order() == order
    assert backend_names(CUDA) == ["flash_attention", "efficient_attention", "math"]


def test_a_cpu_is_left_alone() -> None:
    before = _flags()
    with without_cudnn(CPU):
        assert _flags() == before
    assert backend_names(CPU) is None


@pytest.mark.parametrize("module", [trial, layer_attention])
def test_everything_is_measured_inside(module, subject, heard, monkeypatch) -> None:
    inside: list[bool] = []

    @contextmanager
    def noted(device: torch.device):
        assert device == CPU
        inside.append(True)
        yield
        inside.append(False)

    def work(*args: object, **kwargs: object) -> float:
        assert inside == [True]
        return 1.0

    monkeypatch.setattr(module, "without_cudnn", noted)
    monkeypatch.setattr(module, "seconds_of", work)
    setting = Setting(100, 1, 48)
    if module is trial:
        Trial(subject, BenchSettings(rounds=1, steps=1, prefill_rounds=1), setting, heard).run()
    else:
        shape = LayerShape(4, 2, 16, torch.float32, CPU)
        LayerAttention(shape, setting, window=32).measure(Machine("made up", "cpu", 1, 1e9, 1e9, "float32"))
    assert inside == [True, False]
