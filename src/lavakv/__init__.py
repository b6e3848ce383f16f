"""lavakv: a KV cache that keeps only what the answer needs.

The core (`scores`, `select`, `policies`, `Policy`, budgets, stores) knows no serving engine. What works with
transformers (`LavaCache`, `enable`, `disable`, `enabled`) is imported at first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lavakv._version import __version__
from lavakv.budgets.layers import WorstCase, worst_case_entries
from lavakv.errors import (
    BudgetError,
    CacheMismatchError,
    CacheStateError,
    InputError,
    LavaError,
    ModelError,
    NotEnabledError,
    NothingToCompressError,
    PolicyError,
    UnsupportedError,
)
from lavakv.eviction.records import Budgets
from lavakv.policy import Policy, policies
from lavakv.selection import Selection, scores, select

if TYPE_CHECKING:
    from lavakv.hf import LavaCache, disable, enable, enabled


__all__ = [
    "BudgetError",
    "Budgets",
    "CacheMismatchError",
    "CacheStateError",
    "InputError",
    "LavaCache",
    "LavaError",
    "ModelError",
    "NotEnabledError",
    "NothingToCompressError",
    "Policy",
    "PolicyError",
    "Selection",
    "UnsupportedError",
    "WorstCase",
    "__version__",
    "disable",
    "enable",
    "enabled",
    "policies",
    "scores",
    "select",
    "worst_case_entries",
]

_HF = frozenset({"LavaCache", "disable", "enable", "enabled"})


def __getattr__(name: str) -> Any:
    if name in _HF:
        return getattr(import_module("lavakv.hf"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
