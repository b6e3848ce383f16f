"""The picture of the budgets."""

from __future__ import annotations

import torch

from lavakv.demo.answers import budget_picture


def test_height_is_the_kept_share() -> None:
    picture = budget_picture(torch.tensor([[10, 100], [50, 0], [99, 100]]), num_tokens=100).plain.splitlines()
    assert picture[0] == "head 0   ▁▅█ 53%"
    assert picture[1] == "head 1   █ █ 67%"
    assert picture[2] == "layer    0 2"
