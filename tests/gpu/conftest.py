"""Settings of the tests on a GPU."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

_PRECISION = ("allow_tf32", "allow_bf16_reduced_precision_reduction", "allow_fp16_reduced_precision_reduction")


@pytest.fixture(autouse=True)
def _full_precision() -> Iterator[None]:
    """PyTorch makes the errors that ours are held against: no TF32, no sums in half precision that would hide ours."""
    matmul = torch.backends.cuda.matmul
    before = {name: getattr(matmul, name) for name in _PRECISION}
    for name in _PRECISION:
        setattr(matmul, name, False)
    yield
    for name, value in before.items():
        setattr(matmul, name, value)
