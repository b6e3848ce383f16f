"""When Triton kernels of any stage may run, and what is said where they cannot."""

from __future__ import annotations

import os
import warnings
from collections.abc import Hashable
from functools import cache
from importlib import import_module

import torch

SWITCH = "LAVAKV_TRITON"
DTYPES = (torch.float16, torch.bfloat16, torch.float32)
MAX_DIM = 256
MIN_CAPABILITY = (8, 0)


@cache
def device_refusal(device: torch.device, module: str) -> str | None:
    """The reason why kernels cannot run on a device, or None if they can as far as one can tell beforehand.

    Args:
        device: of the tensors.
        module: the kernels' module; loading it loads Triton.
    """
    if device.type == "cuda":
        if torch.version.hip is not None:
            return "this is a ROCm build of PyTorch, on which the kernels were never tried"
        major, minor = torch.cuda.get_device_capability(device)
        if (major, minor) < MIN_CAPABILITY:
            return f"compute capability {major}.{minor} is below {MIN_CAPABILITY[0]}.{MIN_CAPABILITY[1]}"
    try:
        interpreted = import_module(module).INTERPRETED
    except Exception as error:  # a broken or foreign Triton raises anything
        return f"Triton cannot be loaded ({type(error).__name__}: {error})"
    return None if device.type == "cuda" or interpreted else f"tensors are on {device}"


class Fallback:
    """What one stage remembers of kernels that did not run.

    Args:
        doing: what takes the plain path instead: "decoding", "scoring".

    Attributes:
        on_cpu: may CPU tensors take the kernels? Only for tests, under Triton's interpreter.
        failures: reasons by what a kernel is compiled for; one that failed for it is not tried again.
    """

    def __init__(self, doing: str) -> None:
        self._doing = doing
        self.on_cpu = False
        self.failures: dict[Hashable, str] = {}
        self._warned: set[str] = set()

    def wanted(self, device: torch.device) -> bool:
        """Would one expect the kernels on this device? Not off CUDA, and not with `LAVAKV_TRITON=0`."""
        return (device.type == "cuda" or (self.on_cpu and device.type == "cpu")) and os.environ.get(SWITCH) != "0"

    def note(self, compiled_for: Hashable, error: Exception) -> str:
        """Remember a failure. Returns the reason in words."""
        text = (str(error).strip().splitlines() or [""])[0]
        return self.failures.setdefault(compiled_for, f"the kernel does not run here ({type(error).__name__}: {text})")

    def warn(self, reason: str) -> None:
        """Warn of each reason once."""
        if reason not in self._warned:
            self._warned.add(reason)
            warnings.warn(f"lavakv: {self._doing} takes the plain path, not the Triton kernels: {reason}", stacklevel=4)
