"""What goes with a budget: a bound while decoding, and positions that are never evicted; checked without PyTorch."""

from __future__ import annotations

from lavakv.budgets.spec import BudgetSpec
from lavakv.errors import BudgetError, InputError


def check_bound(max_tokens_per_head: object, budget: int | None) -> int | None:
    """Check the most entries that a cache may hold per head.

    Args:
        max_tokens_per_head: mean entries per head, or None for no bound.
        budget: what every round leaves, or None where that follows from the text.

    Raises:
        BudgetError: not a whole number, or nothing above the budget.
    """
    if max_tokens_per_head is None:
        return None
    least = 2 if budget is None else budget + 1
    if not isinstance(max_tokens_per_head, int) or isinstance(max_tokens_per_head, bool) or max_tokens_per_head < least:
        raise BudgetError(
            "max_tokens_per_head",
            expected=f"a whole number of entries per head, at least {least}: more than what every round leaves",
            got=repr(max_tokens_per_head), fix="Raise it or lower the budget; twice the budget is a good start.",
        )  # fmt: skip
    return max_tokens_per_head


def check_protect(protect: object, spec: BudgetSpec) -> range:
    """Original positions that are never evicted.

    Args:
        protect: a number of tokens at the text's beginning, or a slice of positions.
        spec: the budget, which they count towards.

    Raises:
        InputError: neither, or a slice that is open, negative or has steps.
        BudgetError: more tokens than the budget has beside the window.
    """
    if isinstance(protect, int) and not isinstance(protect, bool) and protect >= 0:
        protect = slice(0, protect)
    if not isinstance(protect, slice) or not _is_plain(protect):
        raise InputError(
            "protect", expected="a number of tokens from 0, or a slice of positions with both ends", got=repr(protect),
            fix="Pass e.g. 64 for the first 64 tokens, or slice(16, 64).",
        )  # fmt: skip
    protected = range(protect.start or 0, protect.stop)
    if spec.budget is not None:
        check_protected_fit(protected, spec.budget, spec.window)
    return protected


def check_protected_fit(protected: range, budget: int, window: int) -> None:
    """Check that a budget covers what is protected, the window, and an entry more.

    Raises:
        BudgetError: it does not.
    """
    if protected and budget <= window + len(protected):
        raise BudgetError(
            "protect",
            expected=f"fewer than {max(budget - window, 0)} tokens: the budget of {budget} less the window of {window}",
            got=str(len(protected)), fix="Raise the budget or protect fewer tokens.",
        )  # fmt: skip


def _is_plain(protect: slice) -> bool:
    ends = (protect.start or 0, protect.stop)
    whole = all(isinstance(end, int) and not isinstance(end, bool) and end >= 0 for end in ends)
    return whole and protect.step in (None, 1)
