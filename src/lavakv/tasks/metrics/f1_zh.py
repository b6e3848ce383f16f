"""F1 of Chinese words, as in LongBench."""

from __future__ import annotations

from lavakv.tasks.metrics.chinese import bare, words
from lavakv.tasks.metrics.overlap import overlap_f1


def f1_zh(prediction: str, answer: str) -> float:
    """F1 of the words that jieba cuts, each made bare, empty ones dropped (LongBench `qa_f1_zh_score`)."""
    return overlap_f1(_words(prediction), _words(answer))


def _words(text: str) -> list[str]:
    return [word for word in map(bare, words(text)) if word]
