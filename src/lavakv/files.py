"""Files that a command writes when its work is done: tried before it, whole or not at all where that can be."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from lavakv.errors import DiskError, InputError, LavaError


def _numbers(*names: str) -> set[int]:
    """Error numbers by name; this system may not have them all."""
    return {getattr(errno, name) for name in names if hasattr(errno, name)}


_FULL = _numbers("ENOSPC", "EDQUOT")
_DISK_ERRNOS = _FULL | _numbers("EFBIG", "EIO", "ESTALE")
_NO_PERMISSION = _numbers("EACCES", "EPERM")


def is_disk_error(error: OSError) -> bool:
    """True if the disk is full or broken, false if the path is wrong or not ours to write."""
    return error.errno in _DISK_ERRNOS


def remedy(error: OSError, folder: Path) -> str:
    """What to do about a file that could not be written: each cause has its own remedy.

    Args:
        error: what the system said.
        folder: where the file was to be.
    """
    if error.errno in _FULL:
        return "Free some space on that disk, or write to another."
    if error.errno in _numbers("EFBIG"):
        return "Raise the limit on the size of files (ulimit -f), or write to another disk."
    if error.errno in _DISK_ERRNOS:
        return "Check that disk, or write to another."
    if error.errno in _NO_PERMISSION:
        return f"Make {folder} writable for this user, or name another folder."
    if error.errno in _numbers("EROFS"):
        return "That file system is read-only: name another folder."
    return "Check the path."


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
        raise unwritable(option, file, error) from error


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
        raise unwritable(option, file, error) from error


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


def unwritable(option: str, file: Path, error: OSError) -> LavaError:
    """The error for a file that could not be written: `DiskError` where the disk is to blame, not the path.

    Args:
        option: the argument that names the file.
        file: its path.
        error: what the system said.
    """
    kind = DiskError if is_disk_error(error) else InputError
    fix = remedy(error, file.parent)
    got = f"{file}: {error.strerror or error}"
    return kind(option, expected="a file that can be written", got=got, fix=fix)
