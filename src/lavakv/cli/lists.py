"""Option values that are lists separated by commas."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from lavakv.errors import InputError

Item = TypeVar("Item")


def names(option: str, value: str) -> list[str]:
    """Words; at least one."""
    return _parsed(option, value, str, "names")


def whole_numbers(option: str, value: str | None) -> list[int]:
    """Whole numbers; none if the option is not given."""
    return [] if value is None else _parsed(option, value, int, "whole numbers")


def numbers(option: str, value: str | None) -> list[float]:
    """Numbers; none if the option is not given."""
    return [] if value is None else _parsed(option, value, float, "numbers")


def _parsed(option: str, value: str, kind: Callable[[str], Item], expected: str) -> list[Item]:
    items = [item.strip() for item in value.split(",")]
    try:
        if not all(items):
            raise ValueError
        return [kind(item) for item in items]
    except ValueError:
        raise InputError(
            option, expected=f"{expected} separated by commas", got=repr(value), fix="Correct it."
        ) from None
