"""Devices and dtypes by name."""

from __future__ import annotations

from typing import Any

import torch

from lavakv.errors import InputError
from lavakv.models.choices import require_dtype


def dtype_of(name: str, device: torch.device) -> Any:
    """A dtype by name; `auto` is float32 on a CPU and "auto", what the weights are in, elsewhere.

    Raises:
        InputError: another name.
    """
    if name == "auto":
        return torch.float32 if device.type == "cpu" else "auto"
    require_dtype(name)
    return getattr(torch, name)


def device_of(name: str) -> torch.device:
    """A device by name; `auto` is the first GPU, else the CPU.

    Raises:
        InputError: a device that torch cannot use.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.empty(1, device=name)
        device.tolist()  # a meta device holds nothing
        return device.device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(
            "device", expected="a device that torch can use, such as cpu or cuda", got=repr(name), fix="Use auto."
        ) from error
