"""What holds for every score, whatever a model says."""

from __future__ import annotations

import json
import sys
from difflib import SequenceMatcher
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lavakv.tasks import get_task
from lavakv.tasks.infinitebench.metrics import f1_characters, value_prefix
from lavakv.tasks.longbench.metrics import classification, code_similarity, numbers_right, rouge_l
from lavakv.tasks.metrics import f1

CASES = json.loads(Path(__file__).with_name("golden.json").read_text(encoding="utf-8"))
ONE_PER_TASK = {case["task"]: case for case in CASES}
MARKS = "aAbB cdx01279.,:;\n\t`#/\"'\u201c\u201d\u300a\u300b\uff01北京段落\x00\x1f-*"
SAID = st.text(st.sampled_from(MARKS), max_size=40) | st.text(max_size=30)
WORDS = st.lists(st.sampled_from(["red", "green", "blue", "walk", "walks"]), min_size=1, max_size=8).map(" ".join)


@pytest.mark.parametrize("task", ONE_PER_TASK)
@settings(max_examples=30)
@given(prediction=SAID)
def test_any_text_scores_between_0_and_1(task: str, prediction: str) -> None:
    case = ONE_PER_TASK[task]
    score = get_task(task).score(case["answers"], case.get("classes", ()), prediction)
    assert isinstance(score, float)
    assert 0 <= score <= 1


@given(left=WORDS, right=WORDS)
def test_f1_is_symmetric_and_the_same_text_is_perfect(left: str, right: str) -> None:
    for metric in (f1, f1_characters):
        assert metric(left, right) == pytest.approx(metric(right, left), rel=2**-50)
    assert f1(left, left) == f1_characters(left, left) == 1
    assert rouge_l(left, left) == 0.999999995


@given(line=st.text("ab =():", min_size=1, max_size=20), right=st.text("ab =():", min_size=1, max_size=20))
def test_code_similarity_is_fuzzywuzzy_s_without_levenshtein(line: str, right: str) -> None:
    ratio = SequenceMatcher(None, line, right).ratio()
    assert code_similarity(line, right) == int(round(100 * ratio)) / 100  # noqa: RUF046, as fuzzywuzzy has it


def test_an_installed_levenshtein_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """fuzzywuzzy takes its matcher when it is there: "a b c d" and "d c b a" then get another ratio."""
    fuzz = pytest.importorskip("fuzzywuzzy.fuzz")
    expected = code_similarity("a b c d", "d c b a")

    class Levenshtein:
        def __init__(self, *_: object) -> None: ...

        def ratio(self) -> float:
            return 0.99

    monkeypatch.setattr(fuzz, "SequenceMatcher", Levenshtein)
    assert fuzz.ratio("a b c d", "d c b a") == 99
    assert code_similarity("a b c d", "d c b a") == expected != 0.99


@given(
    classes=st.lists(st.text("abc", min_size=1, max_size=3), unique=True, min_size=1), text=st.text("abc ", max_size=12)
)
def test_classes_share_the_score(classes: list[str], text: str) -> None:
    """Where no class is part of another, the scores of all classes add up to 1, or to 0 if none is named."""
    alone = [name for name in classes if not any(name in other for other in classes if other != name)]
    total = sum(classification(text, [name], alone) for name in alone)
    assert total == pytest.approx(float(any(name in text for name in alone)), rel=2**-50)


@given(values=st.lists(st.integers(0, 99), min_size=1, max_size=9), wrong=st.integers(0, 8))
def test_a_list_is_right_up_to_its_first_mistake(values: list[int], wrong: int) -> None:
    said = [value + 100 * (place == wrong) for place, value in enumerate(values)]
    assert value_prefix(str(said), [str(value) for value in values], ()) == min(wrong, len(values)) / len(values)


def test_answers_that_cannot_be_right() -> None:
    with pytest.raises(ValueError, match="no number in the answer 'Paragraph'"):
        numbers_right("1", "Paragraph")


@pytest.mark.parametrize(("num_words", "is_scored"), [(100, True), (600, False)])
def test_very_long_sentences_get_no_rouge(num_words: int, is_scored: bool) -> None:
    """The package goes back word by word, recursively; LongBench takes any of its errors for 0."""
    left, right = ("start " + " ".join(f"{side}{number}" for number in range(num_words)) for side in "ab")
    assert (rouge_l(left, right) > 0) == is_scored
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(4000)  # as torch.compile does
    try:
        assert (rouge_l(left, right) > 0) == is_scored
        assert sys.getrecursionlimit() == 4000
    finally:
        sys.setrecursionlimit(limit)
