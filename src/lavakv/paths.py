"""The one folder that everything lavakv keeps between runs lies in. Needs no torch."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

HOME_VARIABLE = "LAVAKV_HOME"
_FULL_ERRNOS = {getattr(errno, name, None) for name in ("ENOSPC", "EDQUOT")} - {None}
_PERMISSION_ERRNOS = (errno.EACCES, errno.EPERM, errno.EROFS)
_OBSTACLE_ERRNOS = (errno.EEXIST, errno.ENOTDIR, errno.EISDIR)


def home() -> Path:
    """Absolute path of lavakv's folder: `LAVAKV_HOME` if it is set and not empty, else in the user's cache directory.

    The cache directory is what the operating system says (`XDG_CACHE_HOME` or `~/.cache` on Linux). A user without a
    home directory gets a folder below the system's temporary one.
    """
    chosen = os.environ.get(HOME_VARIABLE)
    path = Path(os.path.expanduser(chosen)) if chosen else _user_cache_path()
    if not chosen and path.parts[0] == "~":  # no home directory is known
        path = Path(tempfile.gettempdir()) / f"lavakv-{os.getuid() if hasattr(os, 'getuid') else 'user'}"
    return path.absolute()


def make_folder(folder: Path) -> None:
    """Make a folder and its missing parents, writable for nobody but the user whatever the umask.

    Raises:
        OSError: it cannot be made.
    """
    for missing in reversed([path for path in (folder, *folder.parents) if not path.exists()]):
        missing.mkdir(mode=0o755, exist_ok=True)
    if not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))


def fix_for(error: OSError) -> str:
    """What to do about lavakv's folder when it could not be read or written."""
    if error.errno in _FULL_ERRNOS:
        return f"Free some space on its disk, or set {HOME_VARIABLE} to a folder on another one."
    if error.errno in _PERMISSION_ERRNOS:
        return f"Set {HOME_VARIABLE} to a folder of your own, or get read and write permission for this one."
    if error.errno in _OBSTACLE_ERRNOS:
        return f"Remove what is in its place, or set {HOME_VARIABLE} to a folder."
    return f"Check its disk, or set {HOME_VARIABLE} to a folder on another one."


def _user_cache_path() -> Path:
    try:
        from platformdirs import user_cache_path
    except ImportError:  # a GPU machine on which nothing was set up; the same folder as platformdirs names on Linux
        return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "lavakv"
    return user_cache_path("lavakv")
