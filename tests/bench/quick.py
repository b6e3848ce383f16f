"""A benchmark that need not be exact."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from lavakv.bench import machine


@contextmanager
def quick_machine() -> Iterator[None]:
    """Read little to measure bandwidth, and hide what was imported so far from the garbage collector."""
    gc.collect()
    gc.freeze()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine, "_READ_BYTES", {"cpu": 2**22})
        yield
    gc.unfreeze()
