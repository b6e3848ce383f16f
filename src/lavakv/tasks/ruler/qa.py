"""RULER's questions: SQuAD's and HotpotQA's, among passages that do not answer them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from lavakv.tasks.generated import Draft
from lavakv.tasks.harness.descriptions import constant
from lavakv.tasks.ruler.reading import Reading, reading
from lavakv.tasks.settings import TaskSettings

_FILE = "ruler/qa_utils.py"


@dataclass(frozen=True)
class Questions:
    """A question and its passages among others.

    Attributes:
        source: `squad` or `hotpotqa`.
        index: which question.
        min_size: minimum number of passages: the right ones come first and always stay.
    """

    source: str
    index: int = 0
    min_size: int = 1

    def max_size(self, settings: TaskSettings) -> int | None:
        """Number of passages available.

        Raises:
            TaskError: the set cannot be loaded.
        """
        return len(reading(self.source, settings.data_dir).passages)

    def draft(self, random: Random, size: int, settings: TaskSettings) -> Draft:
        """A prompt with `size` passages, or the right ones if those are more.

        Raises:
            MissingExtraError: the harness is not installed.
            TaskError: an unsupported version of the harness, or the set cannot be loaded.
        """
        known = reading(self.source, settings.data_dir)
        question = known.questions[self.index % len(known.questions)]
        chosen = _chosen(random, known, list(question.passages), question.related, size)
        random.shuffle(chosen)
        texts = constant(_FILE, "CONFIG")
        shown = str(constant(_FILE, "DOCUMENT_PROMPT"))
        passages = "\n\n".join(shown.format(i=i, document=known.passages[p]) for i, p in enumerate(chosen, start=1))
        before, after = str(texts["template"]).split("{context}")
        prefix = " " + str(texts["answer_prefix"]).strip()
        return Draft(before + passages, after.format(query=question.text), question.answers, prefix)


def _chosen(random: Random, known: Reading, right: list[int], related: Sequence[int], size: int) -> list[int]:
    """The right passages, then others of the same article, then any."""
    missing = max(0, size - len(right))
    others = random.sample(related, min(missing, len(related)))
    taken = {*right, *related}
    rest = [passage for passage in range(len(known.passages)) if passage not in taken]
    return right + others + random.sample(rest, min(missing - len(others), len(rest)))
