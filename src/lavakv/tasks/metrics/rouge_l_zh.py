"""ROUGE-L of Chinese text, as in LongBench."""

from __future__ import annotations

from lavakv.tasks.metrics.chinese import words
from lavakv.tasks.metrics.rouge_l import rouge_l


def rouge_l_zh(prediction: str, answer: str) -> float:
    """ROUGE-L of the words that jieba cuts, joined by spaces (LongBench `rouge_zh_score`)."""
    return rouge_l(" ".join(words(prediction)), " ".join(words(answer)))
