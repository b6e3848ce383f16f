"""The folder that keeps converted models between runs."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock
from platformdirs import user_cache_path

from lavakv.errors import ModelError

MARKER = "config.json"


def home() -> Path:
    """Where models are kept: `LAVAKV_HOME`, or the user's cache directory."""
    chosen = os.environ.get("LAVAKV_HOME")
    return Path(chosen).expanduser() if chosen else user_cache_path("lavakv")


def made_once(name: str, make: Callable[[Path, Path], None]) -> Path:
    """The folder `name` under `home()`, made if it is not there. Safe against other processes and interruptions.

    Args:
        name: folder name.
        make: called with an empty folder to fill and a scratch folder; may raise, and then nothing is left behind.

    Raises:
        ModelError: the disk cannot be written.
    """
    final = home() / name
    if (final / MARKER).exists():
        return final
    try:
        home().mkdir(parents=True, exist_ok=True)
        with FileLock(home() / "lock"):
            if not (final / MARKER).exists():
                _make(final, make)
    except OSError as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(
            f"model folder {home()}",
            expected="a folder that can be written",
            got=f"{type(error).__name__}: {error.strerror or error}",
            fix="Free some space there, or set LAVAKV_HOME to another folder.",
        ) from error
    return final


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
