"""InfiniteBench's tasks, and the right answers in their records.

As in its own scripts (OpenBMB/InfiniteBench: src/eval_utils.py, src/compute_scores.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from lavakv.tasks.data import strings
from lavakv.tasks.infinitebench.metrics import (
    bug_choice,
    choice,
    f1_characters,
    first_integer,
    first_number,
    last_integer,
    rouge_lsum,
    speaker,
    value_prefix,
    word_among,
)
from lavakv.tasks.metrics import Scorer, best_answer, f1, first_answer


def text_answers(record: dict[str, Any]) -> tuple[str, ...]:
    """The answers as text: all of them right, or aliases. The files hold numbers, the hub text."""
    return strings(record["answer"])


def option_answers(record: dict[str, Any]) -> tuple[str, ...]:
    """The right option's text and its letter.

    Raises:
        ValueError: the answer is not one of the options.
    """
    answers = strings(record["answer"])
    if len(answers) == 2 and answers[1] in ("A", "B", "C", "D"):
        return answers
    return answers[0], "ABCD"[[str(option) for option in record["options"]].index(answers[0])]


def value_answers(record: dict[str, Any]) -> tuple[str, ...]:
    """All values of a list in order; some copies of the data wrap the list in another.

    Raises:
        ValueError: a value that is not a whole number.
    """
    answer = record["answer"]
    inner = answer[0] if isinstance(answer, list) and answer and isinstance(answer[0], list) else answer
    return tuple(str(int(value)) for value in strings(inner))


class Row(NamedTuple):
    """One task of InfiniteBench.

    Attributes:
        official: its name there, also of its data file.
        group: its domain.
        metric: name in reports.
        scorer: the official metric.
        max_new_tokens: most tokens of an answer.
        answers: reads the right answers from a record.
        in_harness: the harness has a prompt for it.
    """

    official: str
    group: str
    metric: str
    scorer: Scorer
    max_new_tokens: int
    answers: Callable[[dict[str, Any]], tuple[str, ...]] = text_answers
    in_harness: bool = True


_INTEGER, _WORD = first_answer(first_integer), first_answer(word_among)
_SPEAKER, _NUMBER, _RESULT = first_answer(speaker), first_answer(first_number), first_answer(last_integer)
_F1, _F1_ZH = best_answer(f1), best_answer(f1_characters)

ROWS = {
    "passkey": Row("passkey", "Retrieval", "Accuracy", _INTEGER, 6),
    "number_string": Row("number_string", "Retrieval", "Accuracy", _INTEGER, 12),
    "kv_retrieval": Row("kv_retrieval", "Retrieval", "Accuracy", _WORD, 50),
    "longbook_sum_en": Row("longbook_sum_eng", "Novels", "ROUGE-Lsum", rouge_lsum, 1200),
    "longbook_choice_en": Row("longbook_choice_eng", "Novels", "Accuracy", choice, 40, option_answers),
    "longbook_qa_en": Row("longbook_qa_eng", "Novels", "F1", _F1, 40),
    "longbook_qa_chn": Row("longbook_qa_chn", "Novels", "F1 (characters)", _F1_ZH, 40),
    "longdialogue_qa_en": Row("longdialogue_qa_eng", "Dialogue", "Accuracy", _SPEAKER, 40),
    "math_find": Row("math_find", "Mathematics", "Accuracy", _NUMBER, 3),
    "math_calc": Row(
        "math_calc", "Mathematics", "Right beginning", value_prefix, 30000, value_answers, in_harness=False
    ),
    "code_run": Row("code_run", "Code", "Accuracy", _RESULT, 5),
    "code_debug": Row("code_debug", "Code", "Accuracy", bug_choice, 5, option_answers),
}
