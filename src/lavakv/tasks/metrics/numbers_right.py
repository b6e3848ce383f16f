"""Share of right numbers, LongBench's metric for counting and for finding a paragraph."""

from __future__ import annotations

import re


def numbers_right(prediction: str, answer: str) -> float:
    """Share of all whole numbers in the prediction that equal the answer's, as text.

    Args:
        prediction: any text; without a number it gets 0.
        answer: "8" (`count_score`), "Paragraph 15" (`retrieval_score`) or the same in Chinese (`retrieval_zh_score`).

    Raises:
        ValueError: no number in the answer.
    """
    right = re.search(r"\d+", answer)
    if right is None:
        raise ValueError(f"no number in the answer {answer!r}")
    numbers = re.findall(r"\d+", prediction)
    return numbers.count(right.group()) / len(numbers) if numbers else 0.0
