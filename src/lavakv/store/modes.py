"""The autograd mode in which a cache makes and changes the tensors it stores."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def storing() -> Iterator[None]:
    """No graph, and no inference mode: what is allocated there could not be written to outside it."""
    with torch.inference_mode(False), torch.no_grad():
        yield
