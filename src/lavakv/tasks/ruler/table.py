"""RULER's tasks, as in its own configuration (NVIDIA/RULER: scripts/synthetic.yaml)."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import NamedTuple, Protocol

from lavakv.tasks.generated import Draft
from lavakv.tasks.ruler.niah import Niah
from lavakv.tasks.ruler.qa import Questions
from lavakv.tasks.ruler.synthetic import CommonWords, FrequentWords, VariableTracking
from lavakv.tasks.settings import TaskSettings


class Maker(Protocol):
    """Makes prompts of one kind; their size is a number of lines, words or passages."""

    @property
    def min_size(self) -> int:
        """Minimum size."""

    def max_size(self, settings: TaskSettings) -> int | None:
        """Maximum size; None if there is no maximum."""

    def draft(self, random: Random, size: int, settings: TaskSettings) -> Draft:
        """A prompt of that size."""


class Row(NamedTuple):
    """One task of RULER.

    Attributes:
        group: its category there.
        max_new_tokens: most tokens of an answer.
        maker: gives what makes the prompts, from length in tokens and index of the prompt.
        any_answer: one of the answers is enough.
    """

    group: str
    max_new_tokens: int
    maker: Callable[[int, int], Maker]
    any_answer: bool = False


def _niah(**options: object) -> Row:
    maker = Niah(**options)  # type: ignore[arg-type]
    return Row("Retrieval", 128, lambda _length, _index: maker)


ROWS = {
    "niah_single_1": _niah(haystack="noise"),
    "niah_single_2": _niah(haystack="essay"),
    "niah_single_3": _niah(haystack="essay", values="uuids"),
    "niah_multikey_1": _niah(haystack="essay", num_keys=4),
    "niah_multikey_2": _niah(haystack="needle"),
    "niah_multikey_3": _niah(haystack="needle", keys="uuids", values="uuids"),
    "niah_multivalue": _niah(haystack="essay", num_values=4),
    "niah_multiquery": _niah(haystack="essay", num_keys=4, num_queries=4),
    "vt": Row("Multi-hop tracing", 30, lambda _length, _index: VariableTracking()),
    "cwe": Row("Aggregation", 120, lambda length, _index: CommonWords(short=length < 4096)),
    "fwe": Row("Aggregation", 50, lambda length, _index: FrequentWords((length - 50) // 50)),
    "qa_squad": Row("Question answering", 32, lambda _length, index: Questions("squad", index), any_answer=True),
    "qa_hotpot": Row("Question answering", 32, lambda _length, index: Questions("hotpotqa", index), any_answer=True),
}
