"""The prompt: from an argument, a file or stdin."""

from __future__ import annotations

import sys
from pathlib import Path

from lavakv.errors import InputError


def read_prompt(prompt: str | None, file: Path | None, option: str = "--file") -> str:
    """The whole prompt. Text from a file comes first, the argument after it.

    Args:
        prompt: the argument.
        file: the file.
        option: what errors call the file.

    Raises:
        InputError: no prompt or a blank one, a file that cannot be read, or bytes that are not UTF-8 text.
    """
    if prompt is None and file is None:
        if sys.stdin is None or sys.stdin.closed or sys.stdin.isatty():
            raise InputError(
                "prompt", expected="text", got="none", fix="Give it as an argument, with --file, or on stdin."
            )
        file = Path("-")
    if prompt is not None and _has_surrogates(prompt):
        raise InputError("prompt", expected="UTF-8 text", got="other bytes", fix="Give it in a UTF-8 file.")
    parts = [] if file is None else [_read(file, option)]
    text = "\n\n".join([*parts, prompt] if prompt is not None else parts)
    if not text.strip():
        raise InputError("prompt", expected="some text", got="none", fix="Give it as an argument, a file or on stdin.")
    return text


def _has_surrogates(text: str) -> bool:
    """True if the command line held bytes that are not UTF-8."""
    return any("\ud800" <= character <= "\udfff" for character in text)


def _read(file: Path, option: str) -> str:
    try:
        data = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
        return data.decode("utf-8")
    except OSError as error:
        raise InputError(
            option, expected="a text file", got=f"{file}: {error.strerror}", fix="Check the path."
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(
            option, expected="UTF-8 text", got=f"{file}: byte {error.start} is not", fix="Convert it to UTF-8."
        ) from error
