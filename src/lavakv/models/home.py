"""The folder that keeps converted models between runs."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from lavakv.errors import ModelError
from lavakv.paths import home, home_remedy, make_folder

__all__ = ["MARKER", "find_folder", "folder_bytes", "get_or_make_folder", "home"]

MARKER = "config.json"


def find_folder(name: str) -> Path | None:
    """The folder `name` under `home()`, or None if it has not been completed.

    Raises:
        ModelError: the folder cannot be read.
    """
    final = home() / name
    try:
        return final if (final / MARKER).exists() else None
    except OSError as error:
        raise _unusable(error) from error


def get_or_make_folder(name: str, make: Callable[[Path, Path], None]) -> Path:
    """The folder `name` under `home()`, made if it is missing. Safe against other processes and interruptions.

    Args:
        name: folder name.
        make: called with an empty folder to fill and a scratch folder; if it raises, nothing is left behind.

    Raises:
        ModelError: the folder cannot be read or written.
    """
    if (made := find_folder(name)) is not None:
        return made
    final = home() / name
    try:
        make_folder(home())
        with FileLock(home() / "lock"):
            if not (final / MARKER).exists():
                _make(final, make)
    except ModelError:
        raise
    except OSError as error:
        raise _unusable(error) from error
    return final


def _unusable(error: OSError) -> ModelError:
    return ModelError(
        f"model folder {home()}",
        expected="a folder that can be read and written",
        got=f"{type(error).__name__}: {error.strerror or error}",
        fix=home_remedy(error),
    )


def _make(final: Path, make: Callable[[Path, Path], None]) -> None:
    with tempfile.TemporaryDirectory(dir=final.parent, prefix=f"{final.name}-") as scratch:
        staged, rest = Path(scratch) / "model", Path(scratch) / "rest"
        staged.mkdir()
        rest.mkdir()
        make(staged, rest)
        shutil.rmtree(final, ignore_errors=True)  # an older, unfinished folder
        staged.rename(final)


def folder_bytes(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
