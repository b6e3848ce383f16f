"""Triton's CPU interpreter, repaired where the pinned Triton and NumPy need it.

`TRITON_INTERPRET` must be set before Triton is imported; `tests/conftest.py` does so where there is no GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch

triton = pytest.importorskip("triton", reason="Triton is not installed")
if not triton.knobs.runtime.interpret:
    pytest.skip("needs TRITON_INTERPRET=1, set before Triton is imported", allow_module_level=True)

import triton.language as tl  # noqa: E402
from triton.runtime import interpreter  # noqa: E402


def _to_float(data: np.ndarray, dtype: Any) -> np.ndarray:
    """The interpreter keeps bfloat16 as its bits and would multiply those."""
    return torch.from_numpy(data.view(np.int16)).view(torch.bfloat16).float().numpy() if dtype == tl.bfloat16 else data


def _repaired_convert(original: Any) -> Any:
    def convert(data: Any, source: Any, target: Any, rounding: Any) -> Any:
        if source != tl.float32 or target != tl.bfloat16:
            return original(data, source, target, rounding)
        floats = torch.from_numpy(np.ascontiguousarray(data))  # the interpreter cuts where the hardware rounds
        return floats.to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)

    return convert


def _repaired_dot(original: Any) -> Any:
    def dot(self: Any, a: Any, b: Any, d: Any, *settings: Any) -> Any:
        one, other = (interpreter.TensorHandle(_to_float(t.data, t.dtype), tl.float32) for t in (a, b))
        return original(self, *((one, other) if a.dtype == tl.bfloat16 else (a, b)), d, *settings)

    return dot


def _repaired_patch(original: Any) -> Any:
    def patch(tensor: Any, scope: Any) -> None:
        original(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())  # NumPy 2.4: no int(array([1]))

    return patch


@contextmanager
def repaired_interpreter() -> Iterator[None]:
    """The interpreter, computing as the hardware does."""
    builder = interpreter.InterpreterBuilder
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpreter, "_convert_float", _repaired_convert(interpreter._convert_float))
        patch.setattr(builder, "create_dot", _repaired_dot(builder.create_dot))
        patch.setattr(interpreter, "_patch_lang_tensor", _repaired_patch(interpreter._patch_lang_tensor))
        yield
