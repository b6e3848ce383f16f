"""Every error lavakv raises on purpose, each saying what was wrong and what to do about it."""

from __future__ import annotations

import errno
import re
from pathlib import Path
from typing import NamedTuple


class LavaError(Exception):
    """Base of all lavakv errors.

    Args:
        argument: what the error is about: a parameter, a file, a model.
        expected: what is valid.
        got: what was given or happened instead.
        fix: what to do about it.
    """

    def __init__(self, argument: str, *, expected: str, got: str, fix: str) -> None:
        self.argument = argument
        self.expected = expected
        self.got = got
        self.fix = fix
        super().__init__(f"{argument}: expected {expected}, got {_sentence(got)} {_sentence(fix)}")

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.argument, self.expected, self.got, self.fix)


def _sentence(text: str) -> str:
    """The text with exactly one final mark: messages of other libraries often bring a full stop."""
    text = text.rstrip()
    if text.endswith((".", "!", "?")):
        return text if text.endswith("...") else re.sub(r"\.+$", ".", text)
    return f"{text}."


def _rebuild(kind: type[LavaError], argument: str, expected: str, got: str, fix: str) -> LavaError:
    return kind(argument, expected=expected, got=got, fix=fix)


class BudgetError(LavaError, ValueError):
    """A budget, window or kept fraction that cannot be met."""


class PolicyError(LavaError, ValueError):
    """An unknown policy, or one whose scores cannot be used."""


class InputError(LavaError, ValueError):
    """Token ids, masks, tensors or files that lavakv cannot work on."""


class UnsupportedError(LavaError, NotImplementedError):
    """Something that lavakv does not support; the message names it."""


class HiddenTensorError(UnsupportedError, AttributeError):
    """Keys or values of a compressed layer, requested as one tensor."""


class NothingToCompressError(UnsupportedError):
    """A model without a full-attention layer of its own."""


class NotEnabledError(LavaError, RuntimeError):
    """A `LavaCache` reached a model that `lavakv.enable` was not called on."""


class CacheMismatchError(LavaError, ValueError):
    """A cache used with another model or another batch size than it holds."""


class CacheStateError(LavaError, RuntimeError):
    """A cache whose last forward pass failed half-way, or that holds nothing yet."""


class ModelError(LavaError, OSError):
    """A model that cannot be found, fetched or loaded."""


class ResultsError(LavaError, RuntimeError):
    """A results folder that cannot be used as requested, or a record in it that cannot be read or written."""


class FailedRunError(LavaError, RuntimeError):
    """A run that failed although its input was valid. The exit code is 1, not 2."""


class DiskError(ResultsError, FailedRunError):
    """A disk that is full or broken, found while results are written."""


class WorkerError(FailedRunError):
    """Cluster workers that died at every attempt at a prompt."""


class TaskError(LavaError, ValueError):
    """An unknown task, or one whose data or scorer cannot be used."""


class DataUnavailableError(TaskError):
    """A data set that the hub does not provide, or a missing file of RULER's questions."""


class MissingExtraError(LavaError, ImportError):
    """A missing package that only some commands need."""


def _numbers(*names: str) -> set[int]:
    """Error numbers by name; this system may not have them all."""
    return {getattr(errno, name) for name in names if hasattr(errno, name)}


_FULL = _numbers("ENOSPC", "EDQUOT")
_DISK_ERRNOS = _FULL | _numbers("EFBIG", "EIO", "ESTALE")
_NO_PERMISSION = _numbers("EACCES", "EPERM")
_OBSTACLE = _numbers("EEXIST", "ENOTDIR", "EISDIR")


class Elsewhere(NamedTuple):
    """How to choose another place, in words that continue "Free some space, or ...".

    Attributes:
        disk: on another disk.
        folder: in another folder.
    """

    disk: str = "write to another disk"
    folder: str = "name another folder"


def is_disk_error(error: OSError) -> bool:
    """True if the disk is full or broken, false if the path or its permissions are wrong."""
    return error.errno in _DISK_ERRNOS


_ELSEWHERE = Elsewhere()


def remedy(error: OSError, folder: Path, elsewhere: Elsewhere = _ELSEWHERE) -> str:
    """What to do about a file or folder that could not be read or written, by the cause.

    Args:
        error: what the system said.
        folder: the folder itself, or the one that the file is in.
        elsewhere: how to choose another place.
    """
    disk, other = elsewhere
    advice = (
        (_FULL, f"Free some space on that disk, or {disk}."),
        (_numbers("EFBIG"), f"Raise the limit on the size of files (ulimit -f), or {disk}."),
        (_DISK_ERRNOS, f"Check that disk, or {disk}."),
        (_NO_PERMISSION, f"Get read and write permission for {folder}, or {other}."),
        (_numbers("EROFS"), f"Make that file system writable, or {other}."),
        (_OBSTACLE, f"Remove what is in its place, or {other}."),
    )
    return next((text for numbers, text in advice if error.errno in numbers), f"Check the path, or {other}.")
