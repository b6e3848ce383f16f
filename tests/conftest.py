"""Settings of all tests."""

from __future__ import annotations

import torch
from hypothesis import settings

torch.set_num_threads(1)  # tensors are small here, and cores shared

# No deadline: tests share their cores. Derandomized: a red test is red again.
settings.register_profile("lavakv", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("lavakv")
