"""RULER's frequent words: the most frequent of made-up words."""

from __future__ import annotations

import math
import string
from dataclasses import dataclass
from random import Random

from lavakv.tasks.generated import Draft
from lavakv.tasks.harness.constants import constant
from lavakv.tasks.settings import TaskSettings

_FILE = "ruler/fwe_utils.py"
_ZETA_OF_2 = math.pi**2 / 6


@dataclass(frozen=True)
class FrequentWords:
    """Six-letter words whose counts fall as one over the square of their rank; the first rank is noise.

    Attributes:
        vocabulary: different words.
        smallest: least number of words drawn; the fourth rank needs 27 to come at all.
    """

    vocabulary: int
    smallest: int = 30

    def most(self, settings: TaskSettings) -> int | None:
        """No upper end."""
        return None

    def draft(self, random: Random, size: int, settings: TaskSettings) -> Draft:
        """A prompt with about `size` words.

        Raises:
            MissingExtraError: no harness.
            TaskError: another harness.
        """
        words: dict[str, None] = {"...": None}
        while len(words) < max(4, self.vocabulary):
            words["".join(random.choices(string.ascii_lowercase, k=6))] = None
        ranked = list(words)
        counts = [int(size / rank**2 / _ZETA_OF_2) for rank in range(1, len(ranked) + 1)]
        text = [word for word, count in zip(ranked, counts, strict=True) for _ in range(count)]
        random.shuffle(text)
        texts = constant(_FILE, "CONFIG")
        before, after = str(texts["template"]).split("{context}")
        return Draft(before + " ".join(text), after, tuple(ranked[1:4]), str(texts["answer_prefix"]))
