"""Versions of the packages that lavakv works with, and whether the required ones can be imported."""

from __future__ import annotations

import platform
import re
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any

from lavakv._version import __version__

REQUIRED = ("torch", "transformers", "numpy", "safetensors", "typer", "rich")
OPTIONAL = (
    "triton", "accelerate", "peft", "gguf", "bitsandbytes", "torchao", "optimum-quanto", "compressed-tensors",
    "tokenizers", "huggingface-hub", "lm-eval", "datasets", "ray", "jinja2", "vl-convert-python",
)  # fmt: skip
_NAME = re.compile(r"[A-Za-z0-9._-]+")
_MAX_CHARACTERS = 400


def versions() -> dict[str, str | None]:
    """Versions of lavakv, Python and packages; None for a required package that is missing.

    Optional packages that are missing are not listed.
    """
    optional = {name: found for name in OPTIONAL if (found := _version(name)) is not None}
    required = {name: _version(name) for name in REQUIRED}
    return {"lavakv": __version__, "python": platform.python_version(), **required, **optional}


def transformers_range() -> str | None:
    """The versions of transformers that this release of lavakv allows, or None if its metadata is not installed."""
    try:
        requirements = requires("lavakv") or ()
    except PackageNotFoundError:
        return None
    for requirement in requirements:
        name = _NAME.match(requirement)
        if name and name[0] == "transformers":
            bounds = requirement[name.end() :].split(";")[0].strip().split(",")
            return ",".join(sorted(bounds, reverse=True)) or None  # the lower bound first
    return None


def problems() -> list[str]:
    """Why required packages, or what of lavakv builds on them, cannot be imported; empty if all can."""
    modules = {"torch": "torch", "transformers": "transformers", "lavakv with transformers": "lavakv.hf"}
    found: list[str] = []
    for name, module in modules.items():
        reason = failure(lambda module=module: import_module(module))  # type: ignore[misc]
        if reason is not None:
            found.append(f"{name}: {reason}")
    return found


def failure(attempt: Callable[[], Any]) -> str | None:
    """The error of an attempt in one line, or None if it worked. A broken installation may raise anything."""
    try:
        attempt()
    except Exception as error:
        return one_line(error)
    return None


def one_line(error: BaseException) -> str:
    """An error's type and what it says, on one line of bounded length."""
    text = " ".join(str(error).split())[:_MAX_CHARACTERS]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
