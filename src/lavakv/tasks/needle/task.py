"""The needle test: one fact in a long text, at all lengths and depths; and its two metrics."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from typing_extensions import override

from lavakv.errors import TaskError
from lavakv.tasks.example import Example
from lavakv.tasks.extras import import_extra
from lavakv.tasks.generated import require_tokenizer, seeded_random
from lavakv.tasks.haystack import haystack_text
from lavakv.tasks.metrics import best_answer
from lavakv.tasks.needle.facts import RESERVED_TOKENS, hide_fact, invented_fact, published_fact
from lavakv.tasks.settings import TaskSettings
from lavakv.tasks.task import Task, check_answers, check_protocol

DEFAULT_LENGTHS = (1000, 2000, 4000)
PAPER_LENGTHS = tuple(range(1000, 31_401, 400))
PAPER_DEPTHS = (0.0, 11.0, 22.0, 33.0, 44.0, 56.0, 67.0, 78.0, 89.0, 100.0)
_BEFORE = "Read the following text. A question about one sentence in it comes at the end.\n\n"
_AFTER = "\n\nAnswer from the text alone and in one short sentence. {}"


@dataclass(frozen=True)
class NeedleTask(Task):
    """Needles invented from the seed, another one for each length and depth, or the published needle.

    Attributes:
        is_published: use the published test's needle.
        by_rouge: score by ROUGE-1 against the whole needle, LAVa's other metric.
    """

    is_published: bool = False
    by_rouge: bool = False

    @override
    def examples(self, settings: TaskSettings) -> Iterator[Example]:
        check_protocol(self, settings)
        tokenizer = require_tokenizer(settings, self.name)
        haystack = haystack_text(settings.haystack, settings.seed)
        depths = _spread(settings.depths or PAPER_DEPTHS, settings.limit)
        for length in settings.lengths or DEFAULT_LENGTHS:
            if length <= 2 * RESERVED_TOKENS:
                raise TaskError(
                    "length",
                    expected=f"more than {2 * RESERVED_TOKENS} tokens",
                    got=str(length),
                    fix="Use a larger length.",
                )
            for depth in depths:
                fact = (
                    published_fact()
                    if self.is_published
                    else invented_fact(seeded_random(settings.seed, length, depth))
                )
                yield Example(
                    task=self.name,
                    name=f"{length}-{depth:g}-{settings.seed}",
                    context=_BEFORE + hide_fact(tokenizer, haystack, fact, length, depth),
                    question=_AFTER.format(fact.question),
                    answers=(fact.sentence.strip() if self.by_rouge else fact.answer,),
                    length=length,
                    depth=depth,
                )

    @override
    def score(self, answers: Sequence[str], classes: Sequence[str], prediction: str) -> float:
        return best_answer(rouge_1 if self.by_rouge else words_found)(prediction, check_answers(self, answers), classes)


def _spread(depths: Sequence[float], limit: int | None) -> Sequence[float]:
    """`limit` depths, evenly spread over all of them."""
    if limit is None or limit >= len(depths):
        return depths
    last = len(depths) - 1
    return [depths[round(last * step / (limit - 1))] for step in range(limit)] if limit > 1 else [depths[last // 2]]


def words_found(prediction: str, answer: str) -> float:
    """Share of the answer's distinct words that are among the prediction's (lower case, full stops as spaces).

    The metric of LAVa's needle grids.
    """
    expected = _words(answer)
    return len(expected & _words(prediction)) / len(expected)


def _words(text: str) -> set[str]:
    return set(text.lower().replace(".", " ").split())


def rouge_1(prediction: str, answer: str) -> float:
    """F of rouge1 in Google's `rouge_score`, with stemming; against the whole needle even a perfect answer gets less.

    LAVa's other metric for the needle test, reported there times ten.
    """
    return float(_rouge_scorer().score(answer, prediction)["rouge1"].fmeasure)


@cache
def _rouge_scorer() -> Any:
    return import_extra("rouge_score.rouge_scorer").RougeScorer(["rouge1"], use_stemmer=True)


def needle_tasks() -> dict[str, NeedleTask]:
    """The four needle tasks, by name."""
    kinds = [("needle", False, False), ("needle_rouge", False, True)]
    kinds += [("needle_published", True, False), ("needle_published_rouge", True, True)]
    tasks = (
        NeedleTask(
            name=name,
            benchmark="Needle in a Haystack",
            group="Retrieval",
            metric="ROUGE-1" if by_rouge else "Answer words found",
            max_new_tokens=30,
            stops_at_newline=True,
            is_published=is_published,
            by_rouge=by_rouge,
        )
        for name, is_published, by_rouge in kinds
    )
    return {task.name: task for task in tasks}
