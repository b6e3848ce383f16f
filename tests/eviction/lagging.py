"""A stand-in for a device whose numbers reach the host late: reading them is noted, and possible only by waiting."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from lavakv.policy.numbers import Readback


class Waits:
    """Copies under way.

    Attributes:
        started: copies so far.
        waited: numbers of the copies that were waited for, in that order.
    """

    def __init__(self) -> None:
        self.started, self.waited = 0, list[int]()


class _Event:
    def __init__(self, waits: Waits) -> None:
        self._waits, self._number = waits, waits.started
        waits.started += 1

    def synchronize(self) -> None:
        self._waits.waited.append(self._number)


@contextmanager
def lagging(fetched: Callable[[Tensor], Tensor] = torch.clone) -> Iterator[Waits]:
    """Let every readback be deferred; `fetched` makes what arrives on the host."""
    waits = Waits()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Readback, "_fetch", staticmethod(lambda tensor: (fetched(tensor), _Event(waits))))
        yield waits
