"""Settings of the tests on a GPU."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def _full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch computes the errors that ours are held against: no TF32, no sums in half precision that hide them."""
    matmul = torch.backends.cuda.matmul
    for name in ("allow_tf32", "allow_bf16_reduced_precision_reduction", "allow_fp16_reduced_precision_reduction"):
        monkeypatch.setattr(matmul, name, False)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
