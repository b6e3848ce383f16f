"""Refusing models with missing weights, which transformers would fill with random numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lavakv.errors import ModelError


def require_all_weights(what: str, report: Mapping[str, Any]) -> None:
    """Raise ModelError if transformers' loading report names weights that are missing or of another shape."""
    missing = sorted(report["missing_keys"]) + sorted(str(key) for key in report["mismatched_keys"])
    if missing:
        raise ModelError(
            what,
            expected="weights for all of the model that its config describes",
            got=f"{len(missing)} missing or of another shape, {missing[0]} first",
            fix="Download all of its weight files again, or correct what its config.json says about their shapes.",
        )
