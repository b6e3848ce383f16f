"""Option values that are lists separated by commas, and fractions."""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from typing import TypeVar

from lavakv.budgets.spec import parse_bytes
from lavakv.errors import BudgetError, InputError

Item = TypeVar("Item")
_FRACTION = re.compile(r"\+?(\d+\.?\d*|\.\d+)(e[+-]?\d{1,3})?\s*(%?)", re.IGNORECASE)


def names(option: str, value: str) -> list[str]:
    """Words; at least one."""
    return _parsed(option, value, str, "names", "lava,snapkv" if option == "--policies" else "a,b")


def whole_numbers(option: str, value: str | None) -> list[int]:
    """Whole numbers; none if the option is not given."""
    return [] if value is None else _parsed(option, value, int, "whole numbers", "128,256")


def numbers(option: str, value: str | None) -> list[float]:
    """Numbers; none if the option is not given."""
    return [] if value is None else _parsed(option, value, float, "numbers", "0,50,100")


def fractions(option: str, value: str | None) -> list[float]:
    """Kept fractions, as numbers or percentages; none if the option is not given.

    Raises:
        BudgetError: something else between two commas, or a fraction outside (0, 1].
    """
    return [] if value is None else [_fraction(option, item, "0.5,0.25 or 50%,25%") for item in value.split(",")]


def fraction(option: str, value: str | None) -> float | None:
    """One kept fraction, as a number or a percentage; None if the option is not given.

    Raises:
        BudgetError: neither, or outside (0, 1].
    """
    return None if value is None else _fraction(option, value, "0.25 or 25%")


def byte_counts(option: str, value: str | None) -> list[int]:
    """Bytes, as numbers or text such as "512MiB"; none if the option is not given.

    Raises:
        BudgetError: something else between two commas.
    """
    return [] if value is None else [parse_bytes(item) for item in _parsed(option, value, str, "sizes", "16MiB,32MiB")]


def tolerances(option: str, value: str | None) -> list[float]:
    """Tolerated losses, as numbers or percentages; none if the option is not given.

    Raises:
        BudgetError: something else between two commas, or one outside [0, 1).
    """
    found = [] if value is None else [tolerance(option, item) for item in value.split(",")]
    return [item for item in found if item is not None]


def tolerance(option: str, value: str | None) -> float | None:
    """A tolerated loss, as a number or a percentage; None if the option is not given.

    Raises:
        BudgetError: neither, or outside [0, 1).
    """
    if value is None:
        return None
    match = _FRACTION.fullmatch(value.strip())
    exact = Fraction(f"{match[1]}{match[2] or ''}") / (100 if match[3] else 1) if match else Fraction(1)
    if not float(exact) < 1:
        raise BudgetError(
            option, expected="the largest estimated loss, at least 0 and below 1, or a percentage below 100%",
            got=repr(value.strip()), fix="Write for example 0.05 or 5%.",
        )  # fmt: skip
    return float(exact)


def _fraction(option: str, text: str, example: str) -> float:
    match = _FRACTION.fullmatch(text.strip())
    exact = Fraction(f"{match[1]}{match[2] or ''}") / (100 if match[3] else 1) if match else Fraction(0)
    if not 0 < exact <= 1 or not float(exact):
        wants_percent = match is not None and not match[3] and 1 < exact <= 100
        raise BudgetError(
            option,
            expected="a kept fraction above 0 and at most 1, or a percentage above 0% and at most 100%",
            got=repr(text.strip()),
            fix=f"Did you mean {text.strip()}%?" if wants_percent else f"Write for example {example}.",
        )
    return float(exact)


def _parsed(option: str, value: str, kind: Callable[[str], Item], expected: str, example: str) -> list[Item]:
    items = [item.strip() for item in value.split(",")]
    try:
        if not all(items):
            raise ValueError
        return [kind(item) for item in items]
    except ValueError:
        fix = f"Write for example {option} {example}."
        raise InputError(option, expected=f"{expected} separated by commas", got=repr(value), fix=fix) from None
