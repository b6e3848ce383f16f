"""Names of dtypes, devices and attention implementations, checked without loading PyTorch."""

from __future__ import annotations

import ctypes
import importlib.util
import re
import runpy
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from lavakv.errors import InputError

DTYPES = ("float32", "bfloat16", "float16")
_DEVICES = (
    "cpu", "cuda", "ipu", "xpu", "mkldnn", "opengl", "opencl", "ideep", "hip", "ve", "fpga", "maia", "xla", "lazy",
    "vulkan", "mps", "hpu", "mtia", "privateuseone",
)  # fmt: skip
_ATTENTION = re.compile(r"eager|sdpa|flex_attention|flash_attention_\d+|paged\|\w+|[^/\s]+/\S+")


def require_dtype(name: str, argument: str = "dtype") -> None:
    """Raise InputError unless a name is `auto` or a dtype that models are loaded in."""
    if name != "auto" and name not in DTYPES:
        raise InputError(
            argument, expected=f"auto or one of {', '.join(DTYPES)}", got=repr(name), fix="Use auto if unsure."
        )


def require_device(name: str, argument: str = "device") -> None:
    """Raise InputError for what cannot be a device on this machine; torch itself checks the rest when it is used.

    Raises:
        InputError: no name of a device, or CUDA where PyTorch or the machine has none.
    """
    if name == "auto":
        return
    match = re.fullmatch(r"([a-z][a-z0-9_]*)(:\d+)?", name)
    if match is None or (match[1] not in _DEVICES and not _has_other_backends()):
        raise InputError(
            argument,
            expected="auto, or a device that torch can use, such as cpu, cuda or cuda:1",
            got=repr(name),
            fix="Use auto.",
        )
    reason = cuda_missing_reason() if match[1] == "cuda" else None
    if reason is not None:
        raise InputError(
            argument, expected="a device that torch can use", got=f"{name!r}, but {reason}", fix="Use cpu or auto."
        )


def require_attention(name: str | None, argument: str = "attention") -> None:
    """Raise InputError unless a name can be an attention implementation of transformers, or is None.

    For command lines, in which nothing can be registered under another name.
    """
    if name is not None and not _ATTENTION.fullmatch(name) and not _is_in_transformers(name):
        raise InputError(
            argument,
            expected="an attention implementation of transformers, such as sdpa, eager or flash_attention_2",
            got=repr(name),
            fix="Use sdpa or eager, or omit the option for the model's default.",
        )


def _is_in_transformers(name: str) -> bool:
    """True if the installed transformers mentions a name; its file is read, not imported."""
    if not re.fullmatch(r"\w+", name):
        return False
    try:
        spec = importlib.util.find_spec("transformers")
        if spec is None or spec.origin is None:
            return False
        return f'"{name}"' in Path(spec.origin).with_name("modeling_utils.py").read_text(encoding="utf-8")
    except (OSError, ValueError, ImportError):
        return False


def _has_other_backends() -> bool:
    """True if a package is installed that adds torch devices of other names."""
    return any(not point.value.startswith("lavakv.") for point in entry_points(group="torch.backends"))


def cuda_missing_reason() -> str | None:
    """The reason why CUDA is not available, found in files without loading PyTorch; None if it may be."""
    build = _torch_build()
    if not build or build.get("hip"):
        return None
    if not build.get("cuda"):
        return f"PyTorch {build.get('__version__')} is built without CUDA"
    if sys.platform == "linux":
        try:
            ctypes.CDLL("libcuda.so.1")
        except OSError:
            return "no NVIDIA driver is installed"
    return None


def _torch_build() -> dict[str, Any]:
    """What `torch.version` holds, read without importing the package; empty where that does not work."""
    try:
        spec = importlib.util.find_spec("torch")
        if spec is None or spec.origin is None:
            return {}
        return runpy.run_path(str(Path(spec.origin).with_name("version.py")))
    except Exception:  # another layout of the package: torch itself checks later
        return {}
