"""Counting live storages."""

from __future__ import annotations

import pytest
import torch

from lavakv.bench.memory import LiveStorages, with_peak

CPU = torch.device("cpu")
KIB = 1024


def test_the_peak_is_what_lives_at_once() -> None:
    before = torch.ones(10 * KIB)

    def work() -> torch.Tensor:
        first = torch.zeros(KIB)  # 4 KiB
        second = first + 1
        del first
        third = second.view(2, -1)  # no storage of its own
        before.view(-1).add_(1)  # nor this
        return third + 1

    result, peak = with_peak(work, CPU)
    assert result.shape == (2, 512)
    assert peak == 8 * KIB


@pytest.mark.parametrize("freed", [True, False])
def test_what_is_freed_no_longer_counts(freed) -> None:
    with LiveStorages() as live:
        first = torch.zeros(KIB)
        if freed:
            del first
        second = torch.zeros(KIB)
        del second
        assert live.live == (0 if freed else 4 * KIB)
        assert live.peak == (4 if freed else 8) * KIB


def test_views_of_what_was_there_before_are_nothing_new() -> None:
    weight = torch.ones(64, 64)
    _, peak = with_peak(lambda: weight.t()[:8].T, CPU)
    assert peak == 0


def test_it_works_in_inference_mode() -> None:
    with torch.inference_mode():
        _, peak = with_peak(lambda: torch.nn.functional.linear(torch.ones(4, 64), torch.ones(256, 64)), CPU)
    assert peak == 4 * (4 * 64 + 256 * 64 + 4 * 256)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_counts_what_its_allocator_gave() -> None:
    _, peak = with_peak(lambda: torch.zeros(KIB * KIB, device="cuda") + 1, torch.device("cuda"))
    assert peak == 8 * KIB * KIB
