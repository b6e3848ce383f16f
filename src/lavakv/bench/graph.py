"""Work recorded as a CUDA graph: what a GPU needs for it when no interpreter stands in its way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def captured(work: Callable[[], None]) -> Callable[[], None]:
    """Record `work` and return what replays it.

    Raises:
        RuntimeError: it waits for the device, or does something else that a graph cannot hold.
    """
    stream: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        work()  # kernels are compiled and workspaces made outside the recording
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    graph.replay()
    torch.cuda.synchronize()
    return graph.replay
