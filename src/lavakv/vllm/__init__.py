"""lavakv inside vLLM v1: the same eviction behind vLLM's engine and its OpenAI-compatible server.

Nothing is registered by installing lavakv. vLLM loads these classes by its own arguments (`engine_arguments`), and only
then is vLLM imported; without them it is unchanged. See `docs/vllm.md`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lavakv.vllm.arguments import engine_arguments
    from lavakv.vllm.request_check import Arguments
    from lavakv.vllm.scheduler import Scheduler
    from lavakv.vllm.worker import Worker

_HOME = {
    "Scheduler": "lavakv.vllm.scheduler",
    "Worker": "lavakv.vllm.worker",
    "engine_arguments": "lavakv.vllm.arguments",
}

__all__ = ["Arguments", "Scheduler", "Worker", "engine_arguments"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    if name.startswith("Arguments"):  # followed by the window, which the check cannot learn otherwise
        return import_module("lavakv.vllm.request_check").by_name(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
