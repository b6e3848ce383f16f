"""What every error of the library owes its reader."""

from __future__ import annotations

from lavakv import LavaError


def assert_all_parts(error: LavaError, got: str | None = None) -> None:
    """The message holds all four parts, none empty, and says what came."""
    parts = (error.argument, error.expected, error.got, error.fix)
    assert all(part and part in str(error) for part in parts)
    assert got is None or error.got == got
    assert error.fix.endswith(".")
