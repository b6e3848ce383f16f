"""Naming a speaker, InfiniteBench's metric for dialogues."""

from __future__ import annotations

from lavakv.tasks.metrics.pieces import pieces


def speaker(prediction: str, answer: str) -> float:
    """1 if the name is one of the words in upper case (InfiniteBench `get_score_one_longdialogue_qa_eng`).

    The name itself is compared as it stands: one with a space, or in lower case, is never found.
    """
    return float(answer in [word.upper() for word in pieces(prediction)])
