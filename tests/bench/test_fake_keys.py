"""Fake keys get no weight from any query of their group."""

from __future__ import annotations

import pytest
import torch

from lavakv.bench.fake_keys import fake_keys


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("group", [1, 3, 8])
def test_no_query_of_the_group_sees_them(group, dtype) -> None:
    generator = torch.Generator().manual_seed(group)
    query = torch.randn(2, 2 * group, 1, 64, generator=generator).to(dtype)
    keys = fake_keys(query, 2, 0.125)
    assert keys.shape == (2, 2, 64)
    assert keys.dtype == dtype
    grouped = query.float().reshape(2, 2, group, 64)
    logits = 0.125 * (grouped @ keys.float()[..., None])[..., 0]
    assert logits.max() < -500


def test_equal_queries_are_no_trouble() -> None:
    query = torch.ones(1, 4, 1, 8)
    assert ((query.view(1, 1, 4, 8) @ fake_keys(query, 1, 1.0)[..., None]) < -500).all()
