"""The one folder that holds everything lavakv keeps between runs. Needs no torch."""

from __future__ import annotations

import errno
import os
import sys
import tempfile
from pathlib import Path

from lavakv.errors import Elsewhere, remedy

HOME_VARIABLE = "LAVAKV_HOME"
_ELSEWHERE = Elsewhere(
    disk=f"set {HOME_VARIABLE} to a folder on another disk", folder=f"set {HOME_VARIABLE} to a folder of your own"
)


def home() -> Path:
    """Absolute path of lavakv's folder: `LAVAKV_HOME` if it is set and not empty, else in the user's cache directory.

    The cache directory is `XDG_CACHE_HOME` if that is set, else what the operating system names: `~/.cache`,
    `~/Library/Caches` on macOS, `%LOCALAPPDATA%` on Windows. A user without a home directory gets a folder in the
    system's temporary one.
    """
    chosen = os.environ.get(HOME_VARIABLE)
    path = Path(os.path.expanduser(chosen)) if chosen else _user_cache_path()
    if not chosen and path.parts[0] == "~":  # no home directory is known
        path = Path(tempfile.gettempdir()) / f"lavakv-{os.getuid() if hasattr(os, 'getuid') else 'user'}"
    return path.absolute()


def _user_cache_path() -> Path:
    """Lavakv's folder in the user's cache directory."""
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA") or os.path.expanduser("~/AppData/Local")
        return Path(local) / "lavakv" / "lavakv" / "Cache"
    default = "~/Library/Caches" if sys.platform == "darwin" else "~/.cache"
    return Path(os.path.expanduser(os.environ.get("XDG_CACHE_HOME") or default)) / "lavakv"


def make_folder(folder: Path) -> None:
    """Make a folder and its missing parents, writable for the user alone, with any umask.

    Raises:
        OSError: it cannot be made.
    """
    for missing in reversed([path for path in (folder, *folder.parents) if not path.exists()]):
        missing.mkdir(mode=0o755, exist_ok=True)
    if not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))


def home_remedy(error: OSError) -> str:
    """What to do about lavakv's folder when it could not be read or written."""
    return remedy(error, home(), _ELSEWHERE)
