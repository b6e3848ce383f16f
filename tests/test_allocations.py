from __future__ import annotations

import torch

from tests.allocations import Allocations


def test_the_watch_sees_what_lives_and_what_dies() -> None:
    with Allocations() as watch:
        kept = torch.zeros(100, dtype=torch.uint8)
        for _ in range(3):
            torch.zeros(1000, dtype=torch.uint8)
        kept[5:].add_(1)
    assert (watch.largest, watch.peak) == (1000, 1100)
