"""Settings of all tests."""

from __future__ import annotations

import os

import torch
import transformers
from hypothesis import settings

if not torch.cuda.is_available():  # where there is a GPU, tests/gpu tests the kernels on it
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before anything imports Triton

torch.set_num_threads(1)  # tensors are small here, and cores shared

# No deadline: tests share their cores. Derandomized: a red test is red again.
settings.register_profile("lavakv", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("lavakv")


def pytest_report_header() -> str:
    """Say what is tested against: the oldest and the newest transformers take turns."""
    return f"torch {torch.__version__}, transformers {transformers.__version__}"
