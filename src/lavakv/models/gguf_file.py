"""The first bytes of a GGUF file: checking that it is one, and reading its architecture. Needs no PyTorch."""

from __future__ import annotations

import importlib.util
import struct
from pathlib import Path
from typing import BinaryIO

from lavakv.errors import ModelError

_MAGIC = b"GGUF"
_STRING = 8
_ARCHITECTURE = b"general.architecture"
_MAX_NAME_BYTES = 256


def require_gguf(file: Path) -> None:
    """Raise ModelError if a file is not a GGUF, or the packages that read one are missing."""
    try:
        with file.open("rb") as content:
            start = content.read(8)
    except OSError as error:
        raise ModelError(
            f"model file {file}",
            expected="a file that can be read",
            got=str(error.strerror),
            fix="Check its permissions.",
        ) from error
    if start[:4] != _MAGIC or len(start) < 8:
        raise ModelError(
            f"model file {file}",
            expected="a GGUF file",
            got=f"a file that starts with {start[:4]!r}",
            fix="Check the download. Give other formats as a directory.",
        )
    missing = [name for name in ("gguf", "accelerate") if importlib.util.find_spec(name) is None]
    if missing:
        raise ModelError(
            f"model file {file}",
            expected="the packages that read GGUF files",
            got=f"no {' and no '.join(missing)}",
            fix="Install them: pip install 'lavakv[gguf]'.",
        )


def gguf_architecture(file: Path) -> str | None:
    """The architecture that a GGUF file names, or None if its first metadata entry is another one.

    Writers put `general.architecture` first; the rest of the metadata is not searched.
    """
    try:
        with file.open("rb") as content:
            content.seek(len(_MAGIC) + 4 + 8 + 8)  # magic, version, number of tensors, number of metadata entries
            if _string(content) != _ARCHITECTURE or struct.unpack("<I", content.read(4)) != (_STRING,):
                return None
            return _string(content).decode("utf-8")
    except (OSError, struct.error, ValueError):
        return None


def _string(content: BinaryIO) -> bytes:
    (length,) = struct.unpack("<Q", content.read(8))
    if length > _MAX_NAME_BYTES:
        raise ValueError(f"a name of {length} bytes")
    return content.read(length)
