"""LongBench's tasks, as in its own scripts (THUDM/LongBench: pred.py, eval.py and config/)."""

from __future__ import annotations

from typing import NamedTuple

from lavakv.tasks.longbench.metrics import (
    classification,
    code_similarity,
    f1_zh,
    numbers_right,
    of_first_line,
    rouge_l,
    rouge_l_zh,
)
from lavakv.tasks.metrics import Scorer, best_answer, f1


class Kind(NamedTuple):
    """One metric of LongBench.

    Attributes:
        metric: its name in reports.
        scorer: the function that computes it.
    """

    metric: str
    scorer: Scorer


class Row(NamedTuple):
    """One task of LongBench.

    Attributes:
        group: what the benchmark files it under.
        kind: its metric.
        max_new_tokens: most tokens of an answer.
        extended: it is in LongBench-E as well.
        chat: the prompt goes into the chat template.
        stops_at_newline: a newline ends the answer.
    """

    group: str
    kind: Kind
    max_new_tokens: int
    extended: bool = False
    chat: bool = True
    stops_at_newline: bool = False


_F1 = Kind("F1", best_answer(f1))
_F1_ZH = Kind("F1 (Chinese words)", best_answer(f1_zh))
_ROUGE = Kind("ROUGE-L", best_answer(rouge_l))
_ROUGE_ZH = Kind("ROUGE-L (Chinese words)", best_answer(rouge_l_zh))
_CLASSES = Kind("Accuracy (classes)", of_first_line(classification))
_FIRST_LINE_F1 = Kind("F1", of_first_line(_F1.scorer))
_FIRST_LINE_ROUGE = Kind("ROUGE-L", of_first_line(_ROUGE.scorer))
_NUMBERS = Kind("Accuracy (numbers)", best_answer(numbers_right))
_CODE = Kind("Edit similarity", best_answer(code_similarity))

_SINGLE, _MULTI, _SUMMARY = "Single-document QA", "Multi-document QA", "Summarization"
_FEW_SHOT, _SYNTHETIC, _COMPLETION = "Few-shot learning", "Synthetic", "Code completion"

ROWS = {
    "narrativeqa": Row(_SINGLE, _F1, 128),
    "qasper": Row(_SINGLE, _F1, 128, extended=True),
    "multifieldqa_en": Row(_SINGLE, _F1, 64, extended=True),
    "multifieldqa_zh": Row(_SINGLE, _F1_ZH, 64),
    "hotpotqa": Row(_MULTI, _F1, 32, extended=True),
    "2wikimqa": Row(_MULTI, _F1, 32, extended=True),
    "musique": Row(_MULTI, _F1, 32),
    "dureader": Row(_MULTI, _ROUGE_ZH, 128),
    "gov_report": Row(_SUMMARY, _ROUGE, 512, extended=True),
    "qmsum": Row(_SUMMARY, _ROUGE, 512),
    "multi_news": Row(_SUMMARY, _ROUGE, 512, extended=True),
    "vcsum": Row(_SUMMARY, _ROUGE_ZH, 512),
    "trec": Row(_FEW_SHOT, _CLASSES, 64, extended=True, chat=False),
    "triviaqa": Row(_FEW_SHOT, _FIRST_LINE_F1, 32, extended=True, chat=False),
    "samsum": Row(_FEW_SHOT, _FIRST_LINE_ROUGE, 128, extended=True, chat=False, stops_at_newline=True),
    "lsht": Row(_FEW_SHOT, _CLASSES, 64, chat=False),
    "passage_count": Row(_SYNTHETIC, _NUMBERS, 32, extended=True),
    "passage_retrieval_en": Row(_SYNTHETIC, _NUMBERS, 32, extended=True),
    "passage_retrieval_zh": Row(_SYNTHETIC, _NUMBERS, 32),
    "lcc": Row(_COMPLETION, _CODE, 64, extended=True, chat=False),
    "repobench-p": Row(_COMPLETION, _CODE, 64, extended=True, chat=False),
}
