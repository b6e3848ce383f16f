"""The measured limits of this machine, from which the floors are computed."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from lavakv.bench.clock import seconds_of

_READ_BYTES = {"cpu": 2**29, "cuda": 2**32}
_MULTIPLY_SIZE = {"cpu": 1536, "cuda": 8192}
_ROUNDS = 5


@dataclass(frozen=True, slots=True)
class Machine:
    """A device and its measured limits.

    Attributes:
        name: of the GPU, or of the processor's architecture.
        device: kind of device, such as `cpu` or `cuda`.
        threads: threads of CPU operators.
        read_bandwidth: bytes per second.
        multiply_rate: floating-point operations per second of a large matrix product in `dtype`.
        dtype: of the measured products.
    """

    name: str
    device: str
    threads: int
    read_bandwidth: float
    multiply_rate: float
    dtype: str

    def about(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        rate = f"{self.multiply_rate / 1e9:.0f} Gflop/s in {self.dtype}"
        return f"{self.name}, {self.threads} threads: reads {self.read_bandwidth / 1e9:.1f} GB/s, multiplies {rate}"


def measure_machine(device: torch.device, dtype: torch.dtype) -> Machine:
    """Measure one device; takes a few seconds."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return Machine(
        name,
        device.type,
        torch.get_num_threads(),
        read_bandwidth(device),
        multiply_rate(device, dtype),
        str(dtype).removeprefix("torch."),
    )


def best_seconds(work: Callable[[], object], device: torch.device) -> float:
    """Minimum time of several runs, after a warm-up run."""
    work()
    return min(seconds_of(work, device) for _ in range(_ROUNDS))


def read_bandwidth(device: torch.device) -> float:
    """Bytes per second for reading a large float32 tensor once: the faster of a sum and a matrix-vector product."""
    columns = 32768
    rows = _READ_BYTES.get(device.type, _READ_BYTES["cpu"]) // (4 * columns)
    matrix, vector = torch.ones(rows, columns, device=device), torch.ones(columns, device=device)
    works: list[Callable[[], object]] = [lambda: matrix @ vector, matrix.sum]
    return matrix.nbytes / min(best_seconds(work, device) for work in works)


def multiply_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations per second of a large square matrix product."""
    size = _MULTIPLY_SIZE.get(device.type, _MULTIPLY_SIZE["cpu"])
    left = torch.ones(size, size, device=device, dtype=dtype)
    right = torch.ones(size, size, device=device, dtype=dtype)
    return 2 * size**3 / best_seconds(lambda: left @ right, device)
