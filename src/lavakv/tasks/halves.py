"""Two halves of a data set: one to choose methods and settings on, the other to report them on.

The rule looks at a text alone, so that it is the same whatever the order of the examples and however many are used.
Generated prompts are not split: they have seeds, and 42, the benchmark's own, reports, while others choose.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import get_args

from lavakv.tasks.example import Example
from lavakv.tasks.settings import Half, TaskSettings

HALVES: tuple[Half, ...] = get_args(Half)
HASHED_CHARACTERS = 1000


def half_of(text: str) -> Half:
    """The half of an example: whether the SHA-256 of its first 1,000 characters (UTF-8) is even (choosing) or odd.

    Args:
        text: what the example is about: the data set's own context, without the task's words around it.
    """
    digest = hashlib.sha256(text[:HASHED_CHARACTERS].encode("utf-8", "backslashreplace")).digest()
    return HALVES[digest[-1] % 2]


def chosen_examples(examples: Iterable[Example], settings: TaskSettings) -> Iterator[Example]:
    """The first `limit` examples of the half that the settings name, or of all."""
    own = (each for each in examples if settings.half in (None, half_of(each.source or each.context)))
    return islice(own, settings.limit)
