"""RULER's common words: which words of a numbered list come most often?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from lavakv.tasks.generated import Draft
from lavakv.tasks.harness.constants import constant
from lavakv.tasks.ruler.words import all_words
from lavakv.tasks.settings import TaskSettings

_FILE = "ruler/cwe_utils.py"
_COMMON = 10


@dataclass(frozen=True)
class CommonWords:
    """Ten common words among others, after a solved example; below 4,096 tokens with fewer repeats.

    Attributes:
        short: lengths below 4,096.
        smallest: least number of different words.
    """

    short: bool = False
    smallest: int = _COMMON + 1

    def most(self, settings: TaskSettings) -> int | None:
        """As many words as there are."""
        return len(all_words())

    def draft(self, random: Random, size: int, settings: TaskSettings) -> Draft:
        """A prompt with `size` different words.

        Raises:
            MissingExtraError: no harness or no word lists.
            TaskError: another harness.
        """
        example = _question(random, *((20, 3, 1) if self.short else (40, 10, 3)))
        asked = _question(random, size, *((6, 1) if self.short else (30, 3)))
        solved = f"{example.context}{example.question}{example.answer_prefix} {_numbered(example.answers)}\n"
        return asked._replace(context=solved + asked.context)


def _question(random: Random, num_words: int, common_repeats: int, other_repeats: int) -> Draft:
    words = random.sample(all_words(), num_words)
    common, others = words[:_COMMON], words[_COMMON:]
    listed = common * common_repeats + others * other_repeats
    random.shuffle(listed)
    texts = constant(_FILE, "CONFIG")
    before, after = str(texts["template"]).split("{context}")
    return Draft(before + _numbered(listed), after, tuple(common), str(texts["answer_prefix"]))


def _numbered(words: Sequence[str]) -> str:
    return " ".join(f"{number}. {word}" for number, word in enumerate(words, start=1))
