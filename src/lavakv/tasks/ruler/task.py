"""RULER's tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import NamedTuple, Protocol

from typing_extensions import override

from lavakv.tasks.example import Example
from lavakv.tasks.generated import Draft, Fitter, needed_tokenizer, random_of
from lavakv.tasks.metrics.references_found import all_references, any_reference
from lavakv.tasks.ruler.cwe import CommonWords
from lavakv.tasks.ruler.fwe import FrequentWords
from lavakv.tasks.ruler.niah import Niah
from lavakv.tasks.ruler.qa import Questions
from lavakv.tasks.ruler.vt import VariableTracking
from lavakv.tasks.settings import TaskSettings
from lavakv.tasks.task import Task, checked, refuse_harness

DEFAULT_LENGTHS = (4096,)
SAMPLES = 500


class Maker(Protocol):
    """Makes prompts of one kind in any size."""

    @property
    def smallest(self) -> int:
        """Least size."""

    def most(self, settings: TaskSettings) -> int | None:
        """Largest size, if there is one."""

    def draft(self, random: Random, size: int, settings: TaskSettings) -> Draft:
        """A prompt of that size."""


class Row(NamedTuple):
    """One task: its group, most new tokens, what makes its prompts at a length and an index, is any answer enough."""

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


@dataclass(frozen=True)
class RulerTask(Task):
    """One of the thirteen.

    Attributes:
        kind: its name in RULER.
    """

    kind: str = ""

    @override
    def examples(self, settings: TaskSettings) -> Iterator[Example]:
        refuse_harness(self, settings)
        tokenizer = needed_tokenizer(settings, self.name)
        maker_of = ROWS[self.kind].maker
        for length in settings.lengths or DEFAULT_LENGTHS:
            first = maker_of(length, 0)
            fitter = Fitter(tokenizer, length - self.max_new_tokens, first.smallest, first.most(settings))
            for index in range(settings.limit or SAMPLES):
                build = partial(self._draft, maker_of(length, index), settings, length, index)
                yield self._example(fitter.fitted(build), settings.seed, length, index)

    def _draft(self, maker: Maker, settings: TaskSettings, length: int, index: int, size: int) -> Draft:
        return maker.draft(random_of(settings.seed, self.name, length, index), size, settings)

    def _example(self, draft: Draft, seed: int, length: int, index: int) -> Example:
        return Example(
            task=self.name,
            name=f"{length}-{seed}-{index}",
            context=draft.context,
            question=draft.question,
            answers=draft.answers,
            answer_prefix=draft.answer_prefix,
            length=length,
        )

    @override
    def score(self, answers: Sequence[str], classes: Sequence[str], prediction: str) -> float:
        metric = any_reference if ROWS[self.kind].any_answer else all_references
        return metric(prediction, checked(self, answers), classes)


def ruler_tasks() -> dict[str, RulerTask]:
    """All thirteen, by name."""
    tasks = (
        RulerTask(
            name=f"ruler_{kind}",
            benchmark="RULER",
            group=row.group,
            metric="Any reference found" if row.any_answer else "References found",
            max_new_tokens=row.max_new_tokens,
            kind=kind,
        )
        for kind, row in ROWS.items()
    )
    return {task.name: task for task in tasks}
