"""Faster kernels of any stage: when they may run, and the fall back to the plain path where they cannot."""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Callable, Hashable, Iterable
from importlib import import_module
from typing import TypeVar

import torch
from torch import Tensor

SWITCH = "LAVAKV_TRITON"
DTYPES = (torch.float16, torch.bfloat16, torch.float32)
MAX_DIM = 256
MIN_CAPABILITY = (8, 0)
Result = TypeVar("Result")
Kernel = TypeVar("Kernel")


@functools.cache
def device_unsupported_reason(device: torch.device, module: str) -> str | None:
    """The reason why Triton kernels cannot run on a device, or None if nothing known beforehand is against it.

    Args:
        device: of the tensors.
        module: the kernels' module; loading it loads Triton.
    """
    if device.type == "cuda":
        if torch.version.hip is not None:
            return "this is a ROCm build of PyTorch, on which the kernels were never tested"
        major, minor = torch.cuda.get_device_capability(device)
        if (major, minor) < MIN_CAPABILITY:
            return f"compute capability {major}.{minor} is below {MIN_CAPABILITY[0]}.{MIN_CAPABILITY[1]}"
    try:
        interpreted = import_module(module).INTERPRETED
    except Exception as error:  # a broken or foreign Triton raises anything
        return f"Triton cannot be loaded ({type(error).__name__}: {error})"
    return None if device.type == "cuda" or interpreted else f"tensors are on {device}"


def unsupported_reason(module: str, **tensors: Tensor) -> str | None:
    """The reason why Triton kernels cannot take these tensors, or None if they can.

    Args:
        module: the kernels' module.
        tensors: by name, queries first; `[..., head_dim]`.
    """
    dtypes = [tensor.dtype for tensor in tensors.values()]
    if dtypes[0] not in DTYPES:
        return f"{dtypes[0]} is neither float16, bfloat16 nor float32"
    if len(set(dtypes)) > 1:
        return f"{_listed(tensors)} are {_listed(dtypes)}"
    if (dim := max(tensor.shape[-1] for tensor in tensors.values())) > MAX_DIM:
        return f"head size {dim} is over {MAX_DIM}"
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors.values()):
        return "gradients are wanted (use torch.no_grad or torch.inference_mode)"
    return device_unsupported_reason(next(iter(tensors.values())).device, module)


class Fallback:
    """Tries Triton kernels for one stage, and remembers those that did not run.

    Args:
        doing: what takes the plain path instead: "decoding", "scoring".

    Attributes:
        on_cpu: let CPU tensors take the kernels; only for tests, under Triton's interpreter.
        failures: reasons by what a kernel is compiled for; one that failed for it is not tried again.
    """

    def __init__(self, doing: str) -> None:
        self._doing = doing
        self.on_cpu = False
        self.failures: dict[Hashable, str] = {}
        self._warned: set[str] = set()

    def expected_on(self, device: torch.device) -> bool:
        """True on CUDA devices, unless `LAVAKV_TRITON=0`: elsewhere the plain path is expected."""
        return (device.type == "cuda" or (self.on_cpu and device.type == "cpu")) and os.environ.get(SWITCH) != "0"

    def run(
        self, compiled_for: Hashable, reason: str | None, kernel: Callable[..., Result], *arguments: object
    ) -> Result | None:
        """Run a kernel, unless there is a reason not to or it failed before. Each reason is warned of once.

        Args:
            compiled_for: what the kernel is compiled for: device, dtype, sizes.
            reason: why it cannot take these tensors, if that is known beforehand.
            kernel: computes the result.
            arguments: of the kernel.

        Returns:
            The result, or None where the plain path has to compute it.

        Raises:
            torch.OutOfMemoryError: as the plain path would.
            torch.AcceleratorError: as the plain path would.
        """
        reason = reason or self.failures.get(compiled_for)
        if reason is None:
            try:
                return kernel(*arguments)
            except (torch.OutOfMemoryError, torch.AcceleratorError):
                raise
            except Exception as error:  # Triton's compiler, a missing C compiler, the driver: anything
                text = (str(error).strip().splitlines() or [""])[0]
                reason = f"the kernel does not run here ({type(error).__name__}: {text})"
                self.failures[compiled_for] = reason
        self.warn(reason)
        return None

    def warn(self, reason: str) -> None:
        """Warn of a reason for not taking the kernels, once."""
        if reason not in self._warned:
            self._warned.add(reason)
            warnings.warn(f"lavakv: {self._doing} takes the plain path, not the Triton kernels: {reason}", stacklevel=5)


def checked_once(
    load: Callable[[], Kernel | None], agrees: Callable[[Kernel], bool]
) -> functools._lru_cache_wrapper[Kernel | None]:
    """A function that returns a compiled kernel, or None where the plain path has to do the work; it is cached.

    Args:
        load: returns the kernel, or None where there is none.
        agrees: true if it agrees with PyTorch on a small example, where a wrong build would be far off.
    """

    @functools.cache
    def kernel() -> Kernel | None:
        found = load()
        return found if found is not None and agrees(found) else None

    return kernel


def _listed(items: Iterable[object]) -> str:
    *first, last = map(str, items)
    return f"{', '.join(first)} and {last}"
