"""The kernel of `benchmarks/page_cost.py` is right in both layouts; what it costs only a GPU can say."""

from __future__ import annotations

import pytest
import torch
from benchmarks.page_cost import HEAD_DIM, KV_HEADS, attend, exact, make_case

from lavakv.attention.pages import attend_one_by_one
from tests.attention.interpreter import repaired_interpreter  # skips where Triton is missing


@pytest.mark.skipif(torch.cuda.is_available(), reason="runs under the interpreter")
@pytest.mark.parametrize("layout", ["all heads", "one head", "unequal"])
def test_within_twice_the_error_of_pytorch(layout) -> None:
    case = make_case(layout, requests=2, tokens=600, dtype=torch.float32, device="cpu")
    assert int(case.sequences.lengths.sum()) == pytest.approx(2 * KV_HEADS * 600, rel=0.01)
    expected = exact(case)
    plain = attend_one_by_one(*case, HEAD_DIM**-0.5)
    with repaired_interpreter():
        found = attend(case)
    error, of_pytorch = (float((one.double() - expected).abs().max()) for one in (found, plain))
    assert error <= 2 * of_pytorch
