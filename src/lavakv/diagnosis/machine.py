"""The machine: system, devices, folders and settings."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from typing import Any

_TIMEOUT_SECONDS = 10
_PREFIX = "LAVAKV_"


def system() -> dict[str, Any]:
    """Operating system, processor and cores."""
    return {
        "system": platform.platform(),
        "machine": platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "virtual_environment": sys.prefix != sys.base_prefix,
    }


def settings() -> dict[str, str]:
    """Environment variables of lavakv that are set."""
    return {name: value for name, value in sorted(os.environ.items()) if name.startswith(_PREFIX)}


def compilers() -> dict[str, str | None]:
    """C compilers by the command that starts them, with the first line of what they say about themselves.

    The one that lavakv uses comes first. None for one that does not start.
    """
    from lavakv.native.build import compiler

    used = compiler()
    found: dict[str, str | None] = {} if used is None else {" ".join(used): _first_output_line([*used, "--version"])}
    for name in ("cc", "gcc", "clang"):
        path = shutil.which(name)
        if path is not None and path not in found:
            found[path] = _first_output_line([path, "--version"])
    return found


def _first_output_line(command: list[str]) -> str | None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=_TIMEOUT_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return (done.stdout.strip().splitlines() or [""])[0]


def devices() -> list[dict[str, Any]]:
    """What PyTorch can compute on, the CPU first."""
    import torch

    found: list[dict[str, Any]] = [{"device": "cpu", "name": platform.processor() or platform.machine()}]
    found[0]["threads"] = torch.get_num_threads()
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            about = torch.cuda.get_device_properties(index)
            found.append(
                {
                    "device": f"cuda:{index}",
                    "name": about.name,
                    "compute_capability": f"{about.major}.{about.minor}",
                    "memory_bytes": about.total_memory,
                }
            )
    for kind in ("mps", "xpu"):
        backend = getattr(torch, kind, None)
        if backend is not None and getattr(backend, "is_available", lambda: False)():
            found.append({"device": kind, "name": kind})
    return found
