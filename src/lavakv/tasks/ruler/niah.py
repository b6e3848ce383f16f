"""RULER's eight needle tasks."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from lavakv.tasks.generated import Draft
from lavakv.tasks.harness.descriptions import constant
from lavakv.tasks.haystack import haystack_words, sentences
from lavakv.tasks.ruler.words import word_lists
from lavakv.tasks.settings import TaskSettings

_TEXTS, _NEEDLES = "ruler/niah_utils.py", "ruler/prepare_niah.py"
_DEPTHS = [round(100 * step / 39) for step in range(40)]  # 40 even steps from 0 to 100 percent


@dataclass(frozen=True)
class Niah:
    """A RULER needle task: the haystack and what is hidden in it.

    Attributes:
        haystack: `noise` (one sentence again and again), `essay` or `needle` (needles that no question asks for).
        keys: kind of keys, `words` or `uuids`.
        values: kind of values, `numbers` or `uuids`.
        num_keys: keys hidden.
        num_values: values of each key.
        num_queries: keys that the question asks for.
    """

    haystack: str
    keys: str = "words"
    values: str = "numbers"
    num_keys: int = 1
    num_values: int = 1
    num_queries: int = 1

    @property
    def min_size(self) -> int:
        """Minimum size: a line for each needle."""
        return self.num_keys * self.num_values

    def max_size(self, settings: TaskSettings) -> int | None:
        """None: the haystack is repeated as needed."""
        return None

    def draft(self, random: Random, size: int, settings: TaskSettings) -> Draft:
        """A prompt with a haystack of `size` lines, or words of an essay.

        Raises:
            MissingExtraError: the harness or the word lists are not installed.
            TaskError: an unsupported version of the harness, or a folder without text.
        """
        keys = [_drawn(random, self.keys) for _ in range(self.num_keys)]
        values = {key: [_drawn(random, self.values) for _ in range(self.num_values)] for key in keys}
        needles = [self._needle(key, value) for key in keys for value in values[key]]
        random.shuffle(needles)
        queries = random.sample(keys, self.num_queries)
        if self.haystack == "essay":
            context = _among_sentences(random, needles, size, haystack_words(settings.haystack, settings.seed))
        else:
            context = _among_lines(random, needles, [self._line(random) for _ in range(size)])
        return self._asked(context, queries, tuple(value for key in queries for value in values[key]))

    def _needle(self, key: str, value: str) -> str:
        needle = str(constant(_NEEDLES, "NEEDLE"))
        return needle.format(type_needle_v=self.values, key=key, value=value)

    def _line(self, random: Random) -> str:
        if self.haystack == "noise":
            return str(constant(_NEEDLES, "haystack"))
        return self._needle(_drawn(random, self.keys), _drawn(random, self.values))

    def _asked(self, context: str, queries: Sequence[str], answers: tuple[str, ...]) -> Draft:
        template, kind, verb = str(constant(_TEXTS, "TEMPLATE")), self.values, "are"
        if len(answers) == 1:
            template = template.replace("Some", "A").replace("are all", "is").replace("are", "is")
            kind, verb = kind.removesuffix("s"), "is"
        asked = queries[0] if len(queries) == 1 else f"{', '.join(queries[:-1])}, and {queries[-1]}"
        before, after = (text.format(type_needle_v=kind, query=asked) for text in template.split("{context}"))
        # The answer starts with the question's own words from after its "the" on, made a statement.
        statement = after.partition(" the ")[2].removesuffix("?")
        return Draft(before + context, after, answers, f" The {statement} {verb}")


def _drawn(random: Random, kind: str) -> str:
    if kind == "numbers":
        return str(random.randint(1_000_000, 9_999_999))
    if kind == "uuids":
        return str(uuid.UUID(int=random.getrandbits(128), version=4))
    adjectives, nouns = word_lists()
    return f"{random.choice(adjectives)}-{random.choice(nouns)}"


def _among_lines(random: Random, needles: Sequence[str], lines: list[str]) -> str:
    positions = sorted(random.sample(range(len(lines)), len(needles)), reverse=True)
    for position, needle in zip(positions, needles, strict=True):
        lines.insert(position, needle)
    return "\n".join(lines)


def _among_sentences(random: Random, needles: Sequence[str], size: int, words: tuple[str, ...]) -> str:
    """Needles between an essay's sentences, at depths drawn without repeats."""
    repeated = words * -(-size // len(words))
    essay = sentences(" ".join(repeated[:size]))
    positions = sorted((int(len(essay) * depth / 100) for depth in random.sample(_DEPTHS, len(needles))), reverse=True)
    for position, needle in zip(positions, needles, strict=True):
        essay.insert(position, needle)
    return " ".join(essay)
