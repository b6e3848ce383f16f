"""RULER's tasks on generated lists: common words (cwe), frequent words (fwe), chains of variables (vt)."""

from __future__ import annotations

import math
import string
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from random import Random

from lavakv.tasks.generated import Draft
from lavakv.tasks.harness.descriptions import constant
from lavakv.tasks.ruler.words import all_words
from lavakv.tasks.settings import TaskSettings

_CWE_FILE, _FWE_FILE, _VT_FILE = "ruler/cwe_utils.py", "ruler/fwe_utils.py", "ruler/vt_utils.py"
_NUM_COMMON = 10
_ZETA_OF_2 = math.pi**2 / 6
_HOPS = 4
_EXAMPLE_LINES = 10


@dataclass(frozen=True)
class CommonWords:
    """Ten common words among others, after a solved example; below 4,096 tokens with fewer repeats.

    Attributes:
        short: lengths below 4,096.
        min_size: minimum number of different words.
    """

    short: bool = False
    min_size: int = _NUM_COMMON + 1

    def max_size(self, settings: TaskSettings) -> int | None:
        """Number of different words available."""
        return len(all_words())

    def draft(self, random: Random, size: int, settings: TaskSettings) -> Draft:
        """A prompt with `size` different words.

        Raises:
            MissingExtraError: the harness or the word lists are not installed.
            TaskError: an unsupported version of the harness.
        """
        example = _word_list(random, *((20, 3, 1) if self.short else (40, 10, 3)))
        asked = _word_list(random, size, *((6, 1) if self.short else (30, 3)))
        solved = f"{example.context}{example.question}{example.answer_prefix} {_numbered(example.answers)}\n"
        return asked._replace(context=solved + asked.context)


def _word_list(random: Random, num_words: int, common_repeats: int, other_repeats: int) -> Draft:
    words = random.sample(all_words(), num_words)
    common, others = words[:_NUM_COMMON], words[_NUM_COMMON:]
    listed = common * common_repeats + others * other_repeats
    random.shuffle(listed)
    texts = constant(_CWE_FILE, "CONFIG")
    before, after = str(texts["template"]).split("{context}")
    return Draft(before + _numbered(listed), after, tuple(common), str(texts["answer_prefix"]))


def _numbered(words: Sequence[str]) -> str:
    return " ".join(f"{number}. {word}" for number, word in enumerate(words, start=1))


@dataclass(frozen=True)
class FrequentWords:
    """Six-letter words whose counts fall as one over the square of their rank; the first rank is noise.

    Attributes:
        vocabulary: different words.
        min_size: minimum number of words drawn; below 27 the fourth rank does not occur.
    """

    vocabulary: int
    min_size: int = 30

    def max_size(self, settings: TaskSettings) -> int | None:
        """None: no maximum."""
        return None

    def draft(self, random: Random, size: int, settings: TaskSettings) -> Draft:
        """A prompt with about `size` words.

        Raises:
            MissingExtraError: the harness is not installed.
            TaskError: an unsupported version of the harness.
        """
        words: dict[str, None] = {"...": None}
        while len(words) < max(4, self.vocabulary):
            words["".join(random.choices(string.ascii_lowercase, k=6))] = None
        ranked = list(words)
        counts = [int(size / rank**2 / _ZETA_OF_2) for rank in range(1, len(ranked) + 1)]
        text = [word for word, count in zip(ranked, counts, strict=True) for _ in range(count)]
        random.shuffle(text)
        texts = constant(_FWE_FILE, "CONFIG")
        before, after = str(texts["template"]).split("{context}")
        return Draft(before + " ".join(text), after, tuple(ranked[1:4]), str(texts["answer_prefix"]))


@dataclass(frozen=True)
class VariableTracking:
    """One chain of four hops in noise, after a short solved example."""

    min_size: int = _HOPS + 1

    def max_size(self, settings: TaskSettings) -> int | None:
        """None: no maximum."""
        return None

    def draft(self, random: Random, size: int, settings: TaskSettings) -> Draft:
        """A prompt with `size` lines of noise.

        Raises:
            MissingExtraError: the harness is not installed.
            TaskError: an unsupported version of the harness.
        """
        example = _chain(random, _EXAMPLE_LINES, letters=3)
        prompt = _chain(random, size, letters=5)
        solved = f"{example.context}{example.question}{example.answer_prefix}{' '.join(example.answers)}\n\n"
        return prompt._replace(context=solved + prompt.context)


def _chain(random: Random, num_lines: int, letters: int) -> Draft:
    names: list[str] = []
    while len(names) <= _HOPS:
        name = "".join(random.choices(string.ascii_uppercase, k=letters))
        names += [name] if name not in names else []
    value = str(random.randint(10_000, 99_999))
    lines = [str(constant(_VT_FILE, "noise")).strip()] * num_lines
    chain = [f"VAR {names[0]} = {value}"]
    chain += [f"VAR {name} = VAR {before} " for before, name in pairwise(names)]
    for added, position in enumerate(sorted(random.sample(range(num_lines), len(chain)))):
        lines.insert(position + added, chain[added])
    texts = constant(_VT_FILE, "CONFIG")["variable_tracking"]
    before, after = str(texts["template"]).split("{context}")
    prefix = str(texts["answer_prefix"]).replace("assgined", "assigned")  # RULER has fixed it since
    context = before + "\n".join(lines)
    return Draft(context, after.format(query=value), tuple(names), prefix.format(num_v=_HOPS + 1, query=value))
