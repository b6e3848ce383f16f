"""What InfiniteBench's records say is right."""

from __future__ import annotations

from typing import Any

from lavakv.tasks.data import strings


def plain(record: dict[str, Any]) -> tuple[str, ...]:
    """The answers as text: all right, or aliases. Numbers come as numbers in the files and as text from the hub."""
    return strings(record["answer"])


def lettered(record: dict[str, Any]) -> tuple[str, ...]:
    """The right option's text and its letter.

    Raises:
        ValueError: the answer is no option.
    """
    answers = strings(record["answer"])
    if len(answers) == 2 and answers[1] in ("A", "B", "C", "D"):
        return answers
    return answers[0], "ABCD"[[str(option) for option in record["options"]].index(answers[0])]


def values(record: dict[str, Any]) -> tuple[str, ...]:
    """All values of a list in order; some copies of the data wrap the list in another.

    Raises:
        ValueError: one that is no whole number.
    """
    answer = record["answer"]
    inner = answer[0] if isinstance(answer, list) and answer and isinstance(answer[0], list) else answer
    return tuple(str(int(value)) for value in strings(inner))
