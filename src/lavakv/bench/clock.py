"""Wall-clock time of work on a device, in turns with other work, or recorded as a CUDA graph."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """Seconds from the call until the device has finished."""
    synchronize(device)
    start = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - start


def interleaved(
    works: Mapping[str, Callable[[], float]], rounds: int, begins: Callable[[str], None] = lambda _: None
) -> dict[str, list[float]]:
    """Run every work once a round and collect what it returns, so that a slow phase of the machine affects all alike.

    Each round starts with another work, and every second round is reversed: none always follows the same one.

    Args:
        works: functions that return seconds, by name.
        rounds: number of runs of each.
        begins: called with the name before each.

    Returns:
        For each name `rounds` numbers; the i-th of all names come from the same round.
    """
    names = list(works)
    results: dict[str, list[float]] = {name: [] for name in names}
    for index in range(rounds):
        for name in in_turn(names, index):
            begins(name)
            results[name].append(works[name]())
    return results


def in_turn(names: Sequence[str], index: int) -> list[str]:
    """The order of one round."""
    first = index % max(len(names), 1)
    order = [*names[first:], *names[:first]]
    return order[::-1] if index % 2 else order


def median_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float | None:
    """Median of the ratios of pairs from the same rounds; None without any."""
    ratios = [a / b for a, b in zip(numerators, denominators, strict=True)]
    return statistics.median(ratios) if ratios else None


def median(values: Sequence[float]) -> float | None:
    """Median; None of an empty sequence."""
    return statistics.median(values) if values else None


def spread(seconds: Sequence[float]) -> list[float] | None:
    """Lower and upper quartile; None of fewer than two."""
    if len(seconds) < 2:
        return None
    low, _, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return [low, high]


def captured(work: Callable[[], None]) -> Callable[[], None]:
    """Record `work` as a CUDA graph, which runs without the interpreter, and return what replays it.

    Raises:
        RuntimeError: it synchronises, or does something else that a graph cannot hold.
    """
    stream: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        work()  # compiles kernels and allocates workspaces before the recording
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    graph.replay()
    torch.cuda.synchronize()
    return graph.replay
