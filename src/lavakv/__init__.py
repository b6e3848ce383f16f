"""lavakv: a KV cache that keeps only what the answer needs.

The core (`scores`, `select`, `policies`, `Policy`, budgets, stores) knows no serving engine. What works with
transformers (`LavaCache`, `enable`, `disable`, `enabled`) is imported at first use, and so is torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lavakv._version import __version__
from lavakv.errors import (
    BudgetError,
    CacheMismatchError,
    CacheStateError,
    DataUnavailableError,
    DiskError,
    FailedRunError,
    HiddenTensorError,
    InputError,
    LavaError,
    MissingExtraError,
    ModelError,
    NotEnabledError,
    NothingToCompressError,
    PolicyError,
    ResultsError,
    TaskError,
    UnsupportedError,
    WorkerError,
)

if TYPE_CHECKING:
    from lavakv.budgets.worst_case import WorstCase, worst_case_entries
    from lavakv.eviction.records import Budgets
    from lavakv.hf import LavaCache, disable, enable, enabled, graphed
    from lavakv.policy.registry import policies
    from lavakv.policy.rules import Policy
    from lavakv.selection.kept import Selection
    from lavakv.selection.scores import scores
    from lavakv.selection.select import select

_HOME = {
    "Budgets": "lavakv.eviction.records",
    "LavaCache": "lavakv.hf",
    "Policy": "lavakv.policy.rules",
    "Selection": "lavakv.selection.kept",
    "WorstCase": "lavakv.budgets.worst_case",
    "disable": "lavakv.hf",
    "enable": "lavakv.hf",
    "enabled": "lavakv.hf",
    "graphed": "lavakv.hf",
    "policies": "lavakv.policy.registry",
    "scores": "lavakv.selection.scores",
    "select": "lavakv.selection.select",
    "worst_case_entries": "lavakv.budgets.worst_case",
}

__all__ = [
    "BudgetError",
    "Budgets",
    "CacheMismatchError",
    "CacheStateError",
    "DataUnavailableError",
    "DiskError",
    "FailedRunError",
    "HiddenTensorError",
    "InputError",
    "LavaCache",
    "LavaError",
    "MissingExtraError",
    "ModelError",
    "NotEnabledError",
    "NothingToCompressError",
    "Policy",
    "PolicyError",
    "ResultsError",
    "Selection",
    "TaskError",
    "UnsupportedError",
    "WorkerError",
    "WorstCase",
    "__version__",
    "disable",
    "enable",
    "enabled",
    "graphed",
    "policies",
    "scores",
    "select",
    "worst_case_entries",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
