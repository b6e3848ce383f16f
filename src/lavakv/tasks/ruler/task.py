"""RULER's tasks and its two metrics."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from typing_extensions import override

from lavakv.tasks.example import Example
from lavakv.tasks.fitting import Fitter
from lavakv.tasks.generated import Draft, require_tokenizer, seeded_random
from lavakv.tasks.ruler.table import ROWS, Maker
from lavakv.tasks.settings import TaskSettings
from lavakv.tasks.task import Task, check_answers, check_protocol

DEFAULT_LENGTHS = (4096,)
SAMPLES = 500


@dataclass(frozen=True)
class RulerTask(Task):
    """One of RULER's thirteen tasks.

    Attributes:
        kind: its name in RULER.
    """

    kind: str = ""

    @override
    def examples(self, settings: TaskSettings) -> Iterator[Example]:
        check_protocol(self, settings)
        tokenizer = require_tokenizer(settings, self.name)
        maker_of = ROWS[self.kind].maker
        for length in settings.lengths or DEFAULT_LENGTHS:
            first = maker_of(length, 0)
            max_tokens = length - self.max_new_tokens
            fitter = Fitter(tokenizer, max_tokens, first.min_size, first.max_size(settings), chat=settings.chat)
            for index in range(settings.limit or SAMPLES):
                build = partial(self._draft, maker_of(length, index), settings, length, index)
                yield self._example(fitter.fitted(build), settings.seed, length, index)

    def _draft(self, maker: Maker, settings: TaskSettings, length: int, index: int, size: int) -> Draft:
        return maker.draft(seeded_random(settings.seed, self.name, length, index), size, settings)

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
        return metric(prediction, check_answers(self, answers), classes)


def all_references(prediction: str, answers: Sequence[str], _classes: Sequence[str]) -> float:
    """Share of the answers that are in the prediction, case ignored (RULER `string_match_all`)."""
    return sum(_found(prediction, answers)) / len(answers)


def any_reference(prediction: str, answers: Sequence[str], _classes: Sequence[str]) -> float:
    """1 if any of the answers is in the prediction, case ignored (RULER `string_match_part`)."""
    return float(any(_found(prediction, answers)))


def _found(prediction: str, answers: Sequence[str]) -> list[bool]:
    text = re.sub(r"[\x00-\x1f]", "\n", prediction.strip()).strip().lower()
    return [answer.lower() in text for answer in answers]


def ruler_tasks() -> dict[str, RulerTask]:
    """RULER's thirteen tasks, by name."""
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
