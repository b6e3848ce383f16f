"""Finding the size at which a generated prompt fits its length."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lavakv.errors import TaskError
from lavakv.tasks.generated import Draft, token_count


def largest(fits: Callable[[int], bool], min_size: int, max_size: int | None = None) -> int | None:
    """The largest size that fits, by doubling and halving; None if not even the smallest does.

    Args:
        fits: whether a size fits; if one does not, no larger one does.
        min_size: where to start, at least 1.
        max_size: the largest size to try, or None.
    """
    if not fits(min_size):
        return None
    good, bad = min_size, min_size * 2
    while (max_size is None or bad <= max_size) and fits(bad):
        good, bad = bad, bad * 2
    bad = bad if max_size is None else min(bad, max_size + 1)
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if fits(middle) else (good, middle)
    return good


class Fitter:
    """Makes drafts that fit a length: the first one's size is searched for, the others start from it and shrink.

    Args:
        tokenizer: counts the tokens.
        max_tokens: maximum tokens of a prompt.
        min_size: minimum size of a draft.
        max_size: maximum size, or None.
        chat: count the chat template, if the tokenizer has one.
    """

    def __init__(
        self, tokenizer: Any, max_tokens: int, min_size: int, max_size: int | None = None, *, chat: bool = True
    ) -> None:
        self._chat = chat
        self._tokenizer, self._max_tokens, self._min_size, self._max_size = tokenizer, max_tokens, min_size, max_size
        self._size: int | None = None

    def fitted(self, build: Callable[[int], Draft]) -> Draft:
        """The draft at the size that fits.

        Args:
            build: makes a draft of a size, always the same one for the same size.

        Raises:
            TaskError: the minimum size does not fit.
        """

        def count(size: int) -> int:
            return token_count(self._tokenizer, build(size), self._chat)

        if self._size is None:
            self._size = largest(lambda size: count(size) <= self._max_tokens, self._min_size, self._max_size)
        size = self._size or self._min_size
        while (tokens := count(size)) > self._max_tokens:
            if size == self._min_size:
                got = f"{tokens} or more, the answer not counted"
                raise TaskError(
                    "length", expected=f"prompts of {self._max_tokens} tokens", got=got, fix="Use a larger length."
                )
            size = max(self._min_size, min(size - 1, size * self._max_tokens // tokens))
        larger = min(size * self._max_tokens // tokens, self._max_size or size * 2)
        return build(larger if larger > size and count(larger) <= self._max_tokens else size)
