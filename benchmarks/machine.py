"""What this machine can do at best: the floor that every measurement is held against."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch


def best_seconds(work: Callable[[], object], rounds: int = 5) -> float:
    """Shortest time of several runs, after one to warm up."""
    work()
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def read_bandwidth() -> float:
    """Bytes per second when 512 MiB are read once by a matrix-vector product, as decoding reads weights."""
    matrix, vector = torch.ones(4096, 32768), torch.ones(32768)
    return matrix.nbytes / best_seconds(lambda: matrix @ vector)


def multiply_rate() -> float:
    """Floating-point operations per second of a large float32 matrix product."""
    size = 1536
    left, right = torch.ones(size, size), torch.ones(size, size)
    return 2 * size**3 / best_seconds(lambda: left @ right)
