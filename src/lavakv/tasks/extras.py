"""Packages of the extra `eval`, imported where they are used."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lavakv.errors import MissingExtraError


def import_extra(module: str) -> Any:
    """Import a module of the extra `eval`.

    Raises:
        MissingExtraError: its package is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise _missing(module.split(".")[0]) from error


def package_folder(package: str) -> Path:
    """The folder of an installed package of the extra `eval`; does not import it.

    Raises:
        MissingExtraError: it is not installed.
    """
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise _missing(package)
    return Path(spec.submodule_search_locations[0])


def _missing(package: str) -> MissingExtraError:
    return MissingExtraError(
        package, expected="an installed package", got="none", fix="Run: pip install 'lavakv[eval]'."
    )
