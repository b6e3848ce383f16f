"""The requested budget: in tokens, as a fraction, in bytes or by a tolerance, checked once; and bits per number."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from numbers import Integral
from typing import Literal, NamedTuple, cast, get_args

from lavakv.errors import BudgetError, InputError

KvBits = Literal[8, 4]
DEFAULT_BUDGET = 256
DEFAULT_WINDOW = 32
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "KI": 2**10, "MI": 2**20, "GI": 2**30}


class Tolerance(NamedTuple):
    """In place of a budget: the least one whose estimated loss is within a tolerance is still to be found.

    Attributes:
        max_loss: largest loss, as a share of what evicting everything before the window would lose.
        most: largest budget, whatever it loses, or None for no limit.
    """

    max_loss: float
    most: int | None = None


@dataclass(frozen=True, slots=True)
class BudgetSpec:
    """One of four ways to say how much of a prompt is kept; the default is 256 tokens a head.

    Attributes:
        budget: mean entries a KV head keeps of the prompt, window included.
        keep: kept fraction of each sequence, in (0, 1].
        max_bytes: bytes that the keys and values of all sequences and layers may take, or text such as "512MiB".
        window: the last tokens of the prompt: always kept, and the queries that score.
        max_loss: estimated loss of what is evicted, as a share of that of evicting everything before the window, in
            [0, 1): each sequence gets the least budget that stays within it, which shows once its prompt is scored.

    Raises:
        BudgetError: two ways at once, or a value outside its range.
    """

    budget: int | None = None
    keep: float | None = None
    max_bytes: int | str | None = None
    window: int = DEFAULT_WINDOW
    max_loss: float | None = None

    def __post_init__(self) -> None:
        given = [name for name in ("budget", "keep", "max_bytes", "max_loss") if getattr(self, name) is not None]
        if len(given) > 1:
            raise BudgetError(
                " and ".join(given),
                expected="one way to give the budget",
                got=f"{len(given)}",
                fix="Give only one of them.",
            )
        _require_count("window", self.window)
        if not given:
            object.__setattr__(self, "budget", DEFAULT_BUDGET)
        if self.budget is not None:
            _require_count("budget", self.budget)
        if self.keep is not None:
            _require_fraction(self.keep)
        if self.max_bytes is not None:
            object.__setattr__(self, "max_bytes", parse_bytes(self.max_bytes))
        if self.max_loss is not None:
            _require_tolerance(self.max_loss)

    def tokens_per_head(self, num_tokens: Sequence[int], fixed_bytes: int, token_bytes: int) -> list[int]:
        """The budget `b` of each sequence, at least its length where nothing needs to go.

        By `max_loss` it follows from the scores: this is then the least one, a token a head beside the window.

        Args:
            num_tokens: real prompt tokens of each sequence.
            fixed_bytes: bytes of the layers that are not compressed (only read for `max_bytes`).
            token_bytes: bytes of one token in all compressed layers and heads (only read for `max_bytes`).

        Raises:
            BudgetError: the budget does not exceed the window though a prompt is longer, or the bytes do not suffice.
        """
        if self.max_loss is not None:
            return [self.window + 1] * len(num_tokens)
        if self.keep is not None:
            return [max(round(self.keep * tokens), self.window + 1) for tokens in num_tokens]
        if self.max_bytes is not None:
            fitting = self._fitting(num_tokens, fixed_bytes, token_bytes)
            return [fitting] * len(num_tokens)
        assert self.budget is not None
        if self.budget <= self.window and max(num_tokens) > self.budget:
            raise BudgetError(
                "budget",
                expected=f"more than the window of {self.window} tokens for a prompt of {max(num_tokens)}",
                got=str(self.budget),
                fix="Raise the budget or lower the window.",
            )
        return [self.budget] * len(num_tokens)

    def _fitting(self, num_tokens: Sequence[int], fixed_bytes: int, token_bytes: int) -> int:
        """Largest budget whose entries fit `max_bytes`: fill the shorter prompts first, share what is left."""
        assert isinstance(self.max_bytes, int)
        max_entries = (self.max_bytes - fixed_bytes) // token_bytes
        least = sum(min(self.window + 1, tokens) for tokens in num_tokens)
        if max_entries < least:
            raise BudgetError(
                "max_bytes",
                expected=f"at least {fixed_bytes + least * token_bytes} bytes for the window and one token a head",
                got=str(self.max_bytes),
                fix="Raise it, lower the window, or send fewer sequences at once.",
            )
        ordered = sorted(num_tokens)
        for index, tokens in enumerate(ordered):
            share = max_entries // (len(ordered) - index)
            if share < tokens:
                return share
            max_entries -= tokens
        return ordered[-1]


def check_kv_bits(value: object, argument: str = "kv_bits") -> KvBits | None:
    """Return the bits of each number behind the window, None for the model's own dtype.

    Args:
        value: what was given.
        argument: what the error calls it.

    Raises:
        InputError: something else than 8, 4 or None.
    """
    if value is None or (isinstance(value, int) and value in get_args(KvBits)):
        return cast("KvBits | None", value)
    raise InputError(
        argument, expected="8, 4 or None", got=repr(value), fix="Leave it out to keep the model's own precision."
    )


def parse_bytes(value: int | str) -> int:
    """Bytes from a whole number or text such as "512MiB" or "2GB".

    Raises:
        BudgetError: neither, or not positive.
    """
    if isinstance(value, str):
        match = re.fullmatch(r"\s*([0-9]{1,18}(?:\.[0-9]{1,18})?)\s*([KMG]I?)?B?\s*", value.upper())
        parsed = int(Fraction(match[1]) * _UNITS[match[2] or ""]) if match else 0
    else:
        parsed = value if isinstance(value, int) and not isinstance(value, bool) else 0
    if parsed < 1:
        raise BudgetError(
            "max_bytes",
            expected='a positive number of bytes, or text such as "512MiB"',
            got=repr(value),
            fix='Write for example "512MiB" or "2GB".',
        )
    return parsed


def _require_count(argument: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        fix = "Leave it out for the policy's own." if argument == "window" else f"The default is {DEFAULT_BUDGET}."
        raise BudgetError(argument, expected="a whole number of tokens, at least 1", got=repr(value), fix=fix)


def _require_fraction(value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1:
        raise BudgetError(
            "keep", expected="the kept fraction, above 0 and at most 1", got=repr(value), fix="0.25 keeps a quarter."
        )


def _require_tolerance(value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
        raise BudgetError(
            "max_loss",
            expected="the largest estimated loss, at least 0 (nothing that counts goes) and below 1 (all may go)",
            got=repr(value), fix="0.05 allows 5 % of the estimated loss of evicting everything.",
        )  # fmt: skip
