"""Finding the size at which a generated prompt fits its length."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lavakv.errors import TaskError
from lavakv.tasks.generated import Draft, token_count


def largest(fits: Callable[[int], bool], smallest: int, most: int | None = None) -> int | None:
    """The largest size that fits, by doubling and halving; None if not even the smallest does.

    Args:
        fits: does a size fit? If one does not, no larger one does.
        smallest: where to start, at least 1.
        most: an upper end of sizes, or None.
    """
    if not fits(smallest):
        return None
    good, bad = smallest, smallest * 2
    while (most is None or bad <= most) and fits(bad):
        good, bad = bad, bad * 2
    bad = bad if most is None else min(bad, most + 1)
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if fits(middle) else (good, middle)
    return good


class Fitter:
    """Makes drafts of one length: the first one's size is searched for, the others start from it and shrink.

    Args:
        tokenizer: counts.
        room: most tokens of a prompt.
        smallest: least size of a draft.
        most: largest size, or None.
        chat: count the chat template, if the tokenizer has one.
    """

    def __init__(self, tokenizer: Any, room: int, smallest: int, most: int | None = None, *, chat: bool = True) -> None:
        self._chat = chat
        self._tokenizer, self._room, self._smallest, self._most = tokenizer, room, smallest, most
        self._size: int | None = None

    def fitted(self, build: Callable[[int], Draft]) -> Draft:
        """The draft at the size that fits.

        Args:
            build: makes it at a size, always the same for the same size.

        Raises:
            TaskError: not even the smallest fits.
        """

        def count(size: int) -> int:
            return token_count(self._tokenizer, build(size), self._chat)

        if self._size is None:
            self._size = largest(lambda size: count(size) <= self._room, self._smallest, self._most)
        size = self._size or self._smallest
        while (tokens := count(size)) > self._room:
            if size == self._smallest:
                got = f"{tokens} at least, beside room for the answer"
                raise TaskError("length", expected=f"prompts of {self._room} tokens", got=got, fix="Ask for more.")
            size = max(self._smallest, min(size - 1, size * self._room // tokens))
        larger = min(size * self._room // tokens, self._most or size * 2)
        return build(larger if larger > size and count(larger) <= self._room else size)
