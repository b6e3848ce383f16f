"""The kernel of `benchmarks/page_cost.py` is right in both layouts; what it costs only a GPU can say."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")
from benchmarks.page_cost import KV_HEADS, attend, exact, make_case
from torch.nn.functional import scaled_dot_product_attention


@pytest.mark.skipif(torch.cuda.is_available(), reason="runs under the interpreter")
@pytest.mark.parametrize("layout", ["all heads", "one head", "unequal"])
def test_within_twice_the_error_of_pytorch(layout) -> None:
    case = make_case(layout, requests=2, tokens=600, dtype=torch.float32, device="cpu")
    assert int(case.lengths.sum()) == pytest.approx(2 * KV_HEADS * 600, rel=0.01)
    expected = exact(case)
    error = float((attend(case).double() - expected).abs().max())
    assert error <= 2 * of_pytorch(case, expected)


def of_pytorch(case, expected) -> float:
    """Largest error of PyTorch's attention in float32, one head after the other."""
    worst = 0.0
    for sequence, length in enumerate(case.lengths.tolist()):
        table, head = case.tables[sequence // case.heads_per_table].long(), sequence % case.heads_per_table
        pages = (-1, 16, case.heads_per_table, 128)
        key, value = (one.view(pages)[table][:, :, head].flatten(0, 1)[:length] for one in case[1:3])
        found = scaled_dot_product_attention(case.queries[sequence][None], key[None], value[None])[0]
        worst = max(worst, float((found.double() - expected[sequence]).abs().max()))
    return worst
