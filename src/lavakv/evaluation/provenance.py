"""The provenance of records: model, settings, versions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from lavakv._version import __version__
from lavakv.evaluation.record import SCHEMA, Provenance
from lavakv.evaluation.settings import EvalSettings
from lavakv.tasks.task import Task


def provenance(settings: EvalSettings, about_model: Mapping[str, Any], passed: Sequence[str]) -> Provenance:
    """The `run` object of every record, ready for JSON.

    Args:
        settings: of the run.
        about_model: `about` of the model as it was loaded.
        passed: names of the settings that the user gave; the others are defaults.
    """
    return {
        "model": settings.model,
        "dtype": about_model["dtype"],
        "device": about_model["device"],
        "arguments": settings.arguments(),
        "passed": sorted(passed),
        "versions": versions(),
        "revision": about_model["revision"],
    }


def early_identity(settings: EvalSettings, tasks: Mapping[str, Task]) -> dict[str, Any]:
    """A run's settings and versions before its model is loaded, for `RunFolder.changes`."""
    run = {"arguments": settings.arguments(), "versions": versions()}
    return {"schema": SCHEMA, "tasks": {name: task.version for name, task in tasks.items()}, "run": run}


def about(model: Any) -> dict[str, Any]:
    """A loaded model's dtype and kind of device, and the hub revision that it came from, if it did."""
    return {
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": model.device.type,
        "revision": getattr(model.config, "_commit_hash", None),
    }


def versions() -> dict[str, str | None]:
    """Versions of all packages that results depend on; None for those not installed."""
    return {"lavakv": __version__} | {name: _version(name) for name in ("torch", "transformers", "lm_eval")}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
