"""Files that a command writes when its work is done: tried before it, whole or not at all where that can be."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from lavakv.errors import DiskError, InputError, LavaError

_DISK_S_OWN = {getattr(errno, name, None) for name in ("ENOSPC", "EDQUOT", "EFBIG", "EIO", "ESTALE")} - {None}


def is_the_disk_s(error: OSError) -> bool:
    """Is the disk to blame, full or broken, and not the path?"""
    return error.errno in _DISK_S_OWN


def require_writable(option: str, file: Path, *, make_folder: bool = False) -> None:
    """Find out before the work whether a file can be written; leaves nothing behind but the folder, if one is made.

    Args:
        option: the argument that names the file, for the error.
        file: its path.
        make_folder: may the folder be missing?

    Raises:
        InputError: it cannot.
        DiskError: the disk is full or broken.
    """
    try:
        if file.is_dir():
            raise InputError(option, expected="a file", got=f"{file}, which is a folder", fix="Name a file in it.")
        if make_folder:
            file.parent.mkdir(parents=True, exist_ok=True)
        if file.exists():
            _require_permission(file)
        else:
            target = Path(os.path.realpath(file))  # of a link that leads nowhere yet
            target.open("xb").close()
            target.unlink()
    except OSError as error:
        raise _unwritable(option, file, error) from error


def write_output(option: str, file: Path, data: bytes, *, make_folder: bool = False) -> None:
    """Write a file so that others see all of it or what was there before.

    What cannot be replaced is written to directly: a pipe, a device, the target of a link, a file in a folder where no
    other may be made.

    Args:
        option: the argument that names the file, for the error.
        file: its path.
        data: all of it.
        make_folder: make the folder if it is missing?

    Raises:
        InputError: the file cannot be written.
        DiskError: the disk is full or broken.
    """
    try:
        if make_folder:
            file.parent.mkdir(parents=True, exist_ok=True)
        if not _replace(file, data):
            file.write_bytes(data)
    except OSError as error:
        raise _unwritable(option, file, error) from error


def _replace(file: Path, data: bytes) -> bool:
    """Put a new file in its place, with the old one's mode; False if it is one that cannot be replaced."""
    old = file.exists()
    if file.is_symlink() or (old and not file.is_file()) or not os.access(file.parent, os.W_OK):
        return False
    if old:
        _require_permission(file)
    descriptor, partial = tempfile.mkstemp(dir=file.parent, prefix=".lavakv-")
    try:
        with open(descriptor, "wb") as out:
            out.write(data)
        if old:
            shutil.copymode(file, partial)
        else:
            os.chmod(partial, 0o666 & ~_umask())
        os.replace(partial, file)
    except BaseException as error:
        with suppress(OSError):
            os.unlink(partial)
        if isinstance(error, OSError) and error.errno in (errno.EPERM, errno.EBUSY):  # in use, or somebody else's
            return False
        raise
    return True


def _require_permission(file: Path) -> None:
    if not os.access(file, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def _umask() -> int:
    """What new files may not be; only setting it tells."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _unwritable(option: str, file: Path, error: OSError) -> LavaError:
    kind, fix = (DiskError, "Free some space.") if is_the_disk_s(error) else (InputError, "Check the path.")
    got = f"{file}: {error.strerror or error}"
    return kind(option, expected="a file that can be written", got=got, fix=fix)
