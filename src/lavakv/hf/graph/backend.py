"""What records a step on a device and repeats it without the host: CUDA graphs."""

from __future__ import annotations

import gc
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

import torch

Result = TypeVar("Result")


class DeviceGraph(ABC):
    """One recorded step. Freed with the object, its memory pool included.

    Args:
        device: where the step runs.
    """

    @abstractmethod
    def __init__(self, device: torch.device) -> None: ...

    @abstractmethod
    def capture(self, prepare: Callable[[], None], step: Callable[[], Result]) -> Result:
        """Record a step.

        Args:
            prepare: called first, where the step is recorded: warms up, and leaves no trace.
            step: works on the same tensors at every call.

        Returns:
            What the recorded call returned. Its tensors are filled at every replay.

        Raises:
            Exception: whatever the step or the device raises; nothing is recorded then.
        """

    @abstractmethod
    def wait(self) -> None:
        """Let what this thread queues from here on run behind the last replay; before the step's tensors are written.

        The host does not wait.
        """

    @abstractmethod
    def replay(self) -> None:
        """Do the recorded work again, behind all work that this thread has queued. After `wait`."""


class CudaGraph(DeviceGraph):
    """A CUDA graph with a private memory pool, recorded on a stream of its own."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._graph = torch.cuda.CUDAGraph()
        self._last_stream: torch.cuda.Stream | None = None

    def capture(self, prepare: Callable[[], None], step: Callable[[], Result]) -> Result:
        """See `DeviceGraph.capture`. Neither collects garbage nor empties the allocator, as `torch.cuda.graph` does."""
        with torch.cuda.device(self._device):
            current, own = torch.cuda.current_stream(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
            own.wait_stream(current)
            with torch.cuda.stream(own):
                prepare()  # on this stream, so that libraries have their workspaces
                result = self._recorded(step)
            current.wait_stream(own)
            self._last_stream = current
        return result

    def _recorded(self, step: Callable[[], Result]) -> Result:
        torch.cuda.synchronize()  # work of the warm-up that fails late must fail here
        with _no_garbage_collection():
            self._graph.capture_begin(capture_error_mode="thread_local")
            try:
                result = step()
                self._graph.capture_end()
            except BaseException:
                with suppress(Exception):  # a capture that a forbidden call has ended raises once more
                    self._graph.capture_end()
                self._release_pool()
                raise
        return result

    def _release_pool(self) -> None:
        """Tell the allocator that a capture is over that could not be ended in the usual way."""
        with suppress(Exception):
            torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), self._graph.pool())

    def wait(self) -> None:
        """See `DeviceGraph.wait`. Only another stream than the last one has to."""
        stream = torch.cuda.current_stream(self._device)
        if self._last_stream is not None and stream != self._last_stream:
            stream.wait_stream(self._last_stream)
        self._last_stream = stream

    def replay(self) -> None:
        """See `DeviceGraph.replay`."""
        self._graph.replay()


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Another graph or an event that is freed while a capture is under way would end it."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


backends: dict[str, type[DeviceGraph]] = {"cuda": CudaGraph}  # by device type


def backend_for(device: torch.device) -> type[DeviceGraph] | None:
    """What records steps on a device; None where nothing does, or where a recording is under way already."""
    found = backends.get(device.type)
    if found is CudaGraph and torch.cuda.is_current_stream_capturing():
        return None
    return found
