"""What the operations of a cache are given, as plain numbers."""

from __future__ import annotations

from contextlib import suppress
from operator import index
from typing import Any

import torch
import transformers

from lavakv.errors import InputError

# transformers before 5.18 takes a positive number for the length that stays, and warns
_POSITIVE_IS_LENGTH = tuple(int(part) for part in transformers.__version__.split(".")[:2]) < (5, 18)


def sequence_numbers(indices: Any, batch: int) -> list[int]:
    """Sequences of a batch, by number or mask, as non-negative numbers; read from the device.

    Raises:
        InputError: not a list of sequences of the batch.
    """
    found = torch.as_tensor(indices)
    if found.dtype is torch.bool and found.shape == (batch,):
        found = found.nonzero().flatten()
    whole = not (found.is_floating_point() or found.is_complex() or found.dtype is torch.bool)
    numbers = found.tolist() if found.ndim == 1 and whole else []
    if not numbers or not all(-batch <= number < batch for number in numbers):
        raise InputError(
            "sequences",
            expected=f"a list of sequences of the batch, 0 to {batch - 1}",
            got=f"{found.dtype} {found.tolist() if found.numel() <= 16 else tuple(found.shape)}",
            fix="Pass the row that each sequence goes on from.",
        )
    return [number % batch for number in numbers]


def number_to_remove(tokens_to_remove: Any, seen: int) -> int:
    """Columns that `crop` takes back, at least 0.

    Raises:
        InputError: not a whole number; a positive one, where transformers refuses those; more than were seen.
    """
    expected, number = "a whole number of tokens, 0 or with a minus in front of it", None
    if not isinstance(tokens_to_remove, bool) and hasattr(tokens_to_remove, "__index__"):
        with suppress(TypeError, ValueError):  # tensors have the method, whatever they hold
            number = index(tokens_to_remove)
    if number is not None and number > 0 and _POSITIVE_IS_LENGTH:
        return max(seen - number, 0)
    if number is not None and number <= 0:
        if -number <= seen or not seen:
            return -number
        expected = f"at most the {seen} tokens that were seen, with a minus in front of the number"
    raise InputError(
        "tokens_to_remove", expected=expected, got=repr(tokens_to_remove), fix="Pass -3 to take three tokens back."
    )
