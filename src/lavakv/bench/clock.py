"""Wall-clock time of work on a device, and several works measured in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """Seconds from the call until the device is done."""
    synchronize(device)
    start = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - start


def interleaved(
    works: Mapping[str, Callable[[], float]], rounds: int, begins: Callable[[str], None] = lambda _: None
) -> dict[str, list[float]]:
    """Run every work once a round and collect what each returns, so that a slow minute of the machine meets all alike.

    Each round starts with another work, and every second round goes backwards: nobody always follows the same one.

    Args:
        works: what returns seconds, by name.
        rounds: how often each runs.
        begins: told the name before each.

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
    """Median, or None of nothing."""
    return statistics.median(values) if values else None
