"""Errors at the command line: one clear line and an exit code, never a traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

from lavakv.cli.console import notes
from lavakv.errors import FailedRunError, LavaError

BAD_INPUT, FAILED_RUN, INTERRUPTED = 2, 1, 130


def guarded(command: Callable[[], Any]) -> int:
    """Run a command and return its exit code: 2 for bad input, 1 for a failed run, 130 when interrupted.

    `LAVAKV_TRACEBACK=1` lets unexpected errors through, for bug reports.

    Args:
        command: what to run; an int that it returns is the exit code.
    """
    try:
        code = command()
        return code if isinstance(code, int) else 0
    except LavaError as error:
        _print_error(str(error))
        return FAILED_RUN if isinstance(error, FailedRunError) else BAD_INPUT
    except KeyboardInterrupt:
        _print_error("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # no second error at exit
        return FAILED_RUN
    except SystemExit as leave:
        return leave.code if isinstance(leave.code, int) else int(leave.code is not None)
    except Exception as error:
        if (usage := _usage(error)) is not None:
            _print_error(usage)
            return BAD_INPUT
        if os.environ.get("LAVAKV_TRACEBACK"):
            raise
        lines = str(error).strip().splitlines() or ["no message"]
        _print_error(f"{type(error).__name__}: {lines[0]} (LAVAKV_TRACEBACK=1 shows where)")
        return FAILED_RUN


def _usage(error: Exception) -> str | None:
    """The option parser's message in one line, with where to find help; None for other errors.

    Recognised by its methods: newer versions of the parser bring their own copy of click, with other classes.
    """
    format_message, context = getattr(error, "format_message", None), getattr(error, "ctx", None)
    if not callable(format_message):
        return None
    command = "lavakv" if context is None else context.command_path
    message = str(format_message()).strip().rstrip(".")
    return f"{message}. `{command} --help` lists the options."


def _print_error(message: str) -> None:
    notes.print(f"lavakv: {' '.join(message.split())}", style="red", markup=False, highlight=False, soft_wrap=True)
