"""What the host must know of a tensor, fetched without waiting for the device."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from lavakv.judging import checked_weight, layer_numbers
from lavakv.policy import Policy
from lavakv.scoring.window import ScoringWindow


class Readback:
    """A tensor on its way to the host. On a CUDA device the copy is queued, and only `get` waits for it."""

    def __init__(self, tensor: Tensor) -> None:
        self._host, self._copied = self._fetch(tensor)

    @property
    def deferred(self) -> bool:
        """Does the copy still have to be waited for? Elsewhere than on CUDA the tensor is there at once."""
        return self._copied is not None

    def get(self) -> Tensor:
        """The tensor on the CPU."""
        if self._copied is not None:
            self._copied.synchronize()
            self._copied = None
        return self._host

    @staticmethod
    def _fetch(tensor: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
        """The tensor on the host, and what to wait for before it may be read."""
        if not tensor.is_cuda:
            return tensor.cpu(), None
        host = tensor.to("cpu", non_blocking=True)  # PyTorch puts it into pinned memory
        return host, torch.cuda.current_stream(tensor.device).record_event()


class LayerWeight:
    """A layer's weight in the split over layers, and whether its scores can be used at all.

    Raises:
        PolicyError: they cannot, named with policy and layer; raised by `value` where the numbers are deferred.
    """

    def __init__(self, policy: Policy, window: ScoringWindow, values: Tensor) -> None:
        self._numbers: Readback | None = Readback(layer_numbers(policy, window, values))
        self._checked = partial(checked_weight, policy, window.layer)
        self._weight = 0.0
        if not self._numbers.deferred:
            self.value()

    @property
    def deferred(self) -> bool:
        """Are the numbers still on their way?"""
        return self._numbers is not None and self._numbers.deferred

    def value(self) -> float:
        """The weight."""
        if self._numbers is not None:
            self._weight, self._numbers = self._checked(self._numbers.get().tolist()), None
        return self._weight
