"""Classification by names in the text, as in LongBench."""

from __future__ import annotations

from collections.abc import Sequence


def classification(prediction: str, answers: Sequence[str], classes: Sequence[str]) -> float:
    """One over the number of classes that the prediction names, if the right one is among them, else 0.

    Classes that are a part of the right one's name do not count. LongBench's `classification_score` removes them from
    the list that it walks over and so may leave one in; where no class is part of another, as in trec and lsht, both
    are the same.
    """
    return max(_share(prediction, answer, classes) for answer in answers)


def _share(prediction: str, answer: str, classes: Sequence[str]) -> float:
    named = [name for name in classes if name in prediction and (name == answer or name not in answer)]
    return 1 / len(named) if answer in named else 0.0
