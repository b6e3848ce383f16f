"""Word F1, as in SQuAD, LongBench and InfiniteBench."""

from __future__ import annotations

import re
import string

from lavakv.tasks.metrics.overlap import overlap_f1

_ASCII_PUNCTUATION = str.maketrans("", "", string.punctuation)


def f1(prediction: str, answer: str) -> float:
    """F1 of the words, in lower case, without ASCII punctuation and without a, an, the (LongBench `qa_f1_score`)."""
    return overlap_f1(_words(prediction), _words(answer))


def _words(text: str) -> list[str]:
    bare = text.lower().translate(_ASCII_PUNCTUATION)  # first: "the." is an article too
    return re.sub(r"\b(a|an|the)\b", " ", bare).split()
