"""What the host must know of a tensor, fetched without waiting for the device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Readback:
    """A tensor on its way to the host. On a CUDA device the copy is queued, and only `get` waits for it."""

    def __init__(self, tensor: Tensor) -> None:
        self._host, self._copied = self._fetch(tensor)

    @property
    def deferred(self) -> bool:
        """Whether the copy still has to be waited for; elsewhere than on CUDA the tensor is there at once."""
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


class PackedReadback:
    """Several one-dimensional tensors on their way to the host in a single copy.

    Args:
        tensors: on one device, those of larger elements first, so that each starts where its elements are aligned.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._types = [tensor.dtype for tensor in tensors]
        parts = [tensor.contiguous().view(torch.uint8) for tensor in tensors]
        self._lengths = [len(part) for part in parts]
        self._bytes = Readback(torch.cat(parts))

    def get(self) -> list[Tensor]:
        """The tensors on the CPU; waits for them."""
        parts = torch.split(self._bytes.get(), self._lengths)
        return [part.view(dtype) for part, dtype in zip(parts, self._types, strict=True)]
