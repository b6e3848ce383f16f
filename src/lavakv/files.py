"""Files that a command writes when its work is done: tried before it, whole or not at all."""

from __future__ import annotations

import errno
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
    if file.is_dir():
        raise InputError(option, expected="a file", got=f"{file}, which is a folder", fix="Name a file in it.")
    if not _is_special(file):
        probe = file.with_name(f"{file.name}.try")
        write_whole(option, probe, b"", make_folder=make_folder)
        probe.unlink()


def write_whole(option: str, file: Path, data: bytes, *, make_folder: bool = False) -> None:
    """Write a file so that others see all of it or what was there before; a pipe or device is written to directly.

    Args:
        option: the argument that names the file, for the error.
        file: its path.
        data: all of it.
        make_folder: make the folder if it is missing?

    Raises:
        InputError: the file cannot be written.
        DiskError: the disk is full or broken.
    """
    partial = file if _is_special(file) else file.with_name(f"{file.name}.part")
    try:
        if make_folder:
            file.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(data)
        if partial != file:
            partial.replace(file)
    except OSError as error:
        if partial != file:
            with suppress(OSError):
                partial.unlink()
        raise _unwritable(option, file, error) from error


def _is_special(file: Path) -> bool:
    """A pipe or a device, which cannot be replaced?"""
    return file.exists() and not file.is_file()


def _unwritable(option: str, file: Path, error: OSError) -> LavaError:
    kind, fix = (DiskError, "Free some space.") if is_the_disk_s(error) else (InputError, "Check the path.")
    got = f"{file}: {error.strerror or error}"
    return kind(option, expected="a file that can be written", got=got, fix=fix)
