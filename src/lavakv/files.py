"""Writing files: checked before the work, and replaced as a whole, so that readers see the old content or the new."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path

from lavakv.errors import DiskError, InputError, LavaError, is_disk_error, remedy


def unwritable(option: str, file: Path, error: OSError) -> LavaError:
    """The error for a file that could not be written: `DiskError` for a full or broken disk, else `InputError`.

    Args:
        option: the argument that names the file.
        file: its path.
        error: what the system said.
    """
    kind = DiskError if is_disk_error(error) else InputError
    got = f"{file}: {error.strerror or error}"
    return kind(option, expected="a file that can be written", got=got, fix=remedy(error, file.parent))


def require_writable(option: str, file: Path, *, make_folder: bool = False) -> None:
    """Check before the work that a file can be written; leaves nothing behind but the folder, if one is made.

    Args:
        option: the argument that names the file, for the error.
        file: its path.
        make_folder: make the folder if it is missing.

    Raises:
        InputError: it cannot be written.
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
    """Write a file that the user named: replaced as a whole, or written in place where it cannot be replaced.

    Args:
        option: the argument that names the file, for the error.
        file: its path.
        data: the whole content.
        make_folder: make the folder if it is missing.

    Raises:
        InputError: the file cannot be written.
        DiskError: the disk is full or broken.
    """
    failed = partial(unwritable, option, file)
    if make_folder:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise failed(error) from error
    write_file(file, [data], failed, in_place=True)


def write_file(
    file: Path, chunks: Iterable[bytes], failed: Callable[[OSError], LavaError], *, in_place: bool = False
) -> None:
    """Write a file so that at any moment, also after a power cut, the old content or the whole new one is there.

    The new file gets the old one's mode. A link stays a link.

    Args:
        file: its path, in a folder that exists.
        chunks: the whole content.
        failed: makes the error to raise from what the system said.
        in_place: write directly to what cannot be replaced: a pipe, a device, the target of a link, a file that is in
            use or mounted, or one in a folder where no other file may be made.

    Raises:
        LavaError: the file could not be written; one that would have been replaced is unchanged.
    """
    content = list(chunks) if in_place else chunks
    try:
        if not (in_place and _is_irreplaceable(file)):
            try:
                return _replace(Path(os.path.realpath(file)), content)
            except OSError as error:
                if not in_place or error.errno not in (errno.EPERM, errno.EBUSY):  # in use, or another user's
                    raise
        file.write_bytes(b"".join(content))
    except OSError as error:
        raise failed(error) from error


def _is_irreplaceable(file: Path) -> bool:
    return file.is_symlink() or (file.exists() and not file.is_file()) or not os.access(file.parent, os.W_OK)


def _replace(file: Path, chunks: Iterable[bytes]) -> None:
    """Write a temporary file in the same folder, and put it in the place of `file`."""
    old = file.exists()
    if old:
        _require_permission(file)
    descriptor, staged = tempfile.mkstemp(dir=file.parent, prefix=".lavakv-")
    try:
        with open(descriptor, "wb") as out:
            out.writelines(chunks)
        put_in_place(Path(staged), file, stat.S_IMODE(file.stat().st_mode) if old else 0o666 & ~_umask())
    except BaseException:
        with suppress(OSError):
            os.unlink(staged)
        raise


def put_in_place(staged: Path, final: Path, mode: int) -> None:
    """Replace `final` by a finished file of the same file system, and return once content and name are on disk.

    Args:
        staged: the file, readable and writable for its owner.
        final: where it goes.
        mode: its permissions there.

    Raises:
        OSError: it cannot be replaced; `final` is as it was.
    """
    _sync(staged, os.O_RDWR)
    staged.chmod(mode)
    os.replace(staged, final)
    sync_folder(final.parent)


def sync_folder(folder: Path) -> None:
    """Make new names in a folder survive a power cut, where the system can.

    Raises:
        OSError: the disk is full or broken.
    """
    if os.name == "posix":
        try:
            _sync(folder, os.O_RDONLY)
        except OSError as error:  # some file systems sync no folders, and some folders may not be read
            if is_disk_error(error):
                raise


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _require_permission(file: Path) -> None:
    if not os.access(file, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def _umask() -> int:
    """Permissions that new files do not get; it can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
