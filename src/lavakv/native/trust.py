"""Which folders and files machine code may be loaded from: those that nobody else can have written.

Whoever can write to a library that is loaded can run anything as the user. So the folder must belong to the user,
nobody else may write to it or replace it by way of a folder above it, and the file itself must be the user's own.
"""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import stat
import tempfile
from pathlib import Path

from lavakv.paths import make_folder


def unsafe_reason(folder: Path) -> str | None:
    """Why machine code must not be loaded from a folder, or None if it is safe; always None off POSIX.

    Parents are checked up to the user's home directory, or to the root if the folder lies elsewhere. A parent may be
    open to all if it is sticky, as `/tmp` is: nobody can replace another's folder there.

    Args:
        folder: an existing folder without symbolic links in its path (see `Path.resolve`).

    Raises:
        OSError: the folder or a parent cannot be looked at.
    """
    if not hasattr(os, "getuid"):
        return None
    top = Path(os.path.expanduser("~")).resolve()
    parents = [parent for parent in folder.parents if parent.is_relative_to(top) or not folder.is_relative_to(top)]
    about = folder.stat()
    if about.st_uid != os.getuid():
        return f"{folder} belongs to {_user(about.st_uid)}, not to {_user(os.getuid())}"
    if _others_can_write(about):
        return f"others can write to {folder} (mode {stat.S_IMODE(about.st_mode):o})"
    for parent in parents:
        about = parent.stat()
        if about.st_uid not in (0, os.getuid()):
            return f"{parent}, above {folder}, belongs to {_user(about.st_uid)}"
        if _others_can_write(about) and not about.st_mode & stat.S_ISVTX:
            return f"others can write to {parent}, above {folder} (mode {stat.S_IMODE(about.st_mode):o})"
    return None


def is_own_file(file: Path) -> bool:
    """Whether a path is a regular file, no link, that belongs to the user and nobody else can write to."""
    try:
        about = file.lstat()
    except OSError:
        return False
    if not stat.S_ISREG(about.st_mode):
        return False
    return not hasattr(os, "getuid") or (about.st_uid == os.getuid() and not _others_can_write(about))


def safe_folder(folder: Path) -> tuple[Path, str | None]:
    """The folder itself, made and resolved, if machine code may be loaded from it; else this process's private one.

    Returns:
        The folder to use, and why it is not `folder` (None if it is).

    Raises:
        OSError: no private folder can be made, or it is not safe either.
    """
    try:
        make_folder(folder)
        real = folder.resolve(strict=True)
        reason = unsafe_reason(real)
    except OSError as error:
        reason = f"{folder} cannot be used ({error.strerror or error})"
    if reason is None:
        return real, None
    private = private_folder()
    if (private_reason := unsafe_reason(private)) is not None:
        raise PermissionError(private_reason)
    return private, reason


@functools.cache
def private_folder() -> Path:
    """A folder of this process alone (mode 700), removed when the process ends."""
    made, maker = Path(tempfile.mkdtemp(prefix="lavakv-native-")).resolve(), os.getpid()

    def remove() -> None:
        if os.getpid() == maker:  # a forked child must not remove its parent's
            shutil.rmtree(made, ignore_errors=True)

    atexit.register(remove)
    return made


def _others_can_write(about: os.stat_result) -> bool:
    """Whether the mode lets anybody but the owner write; a group of the user alone does not count."""
    by_group = about.st_mode & stat.S_IWGRP and not _is_private_group(about.st_gid)
    return bool(by_group or about.st_mode & stat.S_IWOTH)


def _is_private_group(gid: int) -> bool:
    """Whether a group is the user's own one of the same name, which many systems give to each user."""
    import grp
    import pwd

    try:
        user, group = pwd.getpwuid(os.getuid()), grp.getgrgid(gid)
    except KeyError:
        return False
    return gid == user.pw_gid and group.gr_name == user.pw_name and set(group.gr_mem) <= {user.pw_name}


def _user(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"
