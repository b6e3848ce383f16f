from __future__ import annotations

import json
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path
from uuid import UUID

import pytest

from lavakv import DataUnavailableError, TaskError
from lavakv.tasks import TaskSettings, get_task, task_names
from lavakv.tasks.example import Example
from lavakv.tasks.generated import Draft, token_count
from lavakv.tasks.harness.descriptions import constant
from lavakv.tasks.ruler.words import all_words, word_lists

OFFLINE = [name for name in task_names() if name.startswith("ruler_") and "_qa_" not in name]
NEEDLES = [name for name in OFFLINE if "niah" in name]
NEW_TOKENS = {"niah": 128, "vt": 30, "cwe": 120, "fwe": 50, "qa": 32}
NEEDLE = constant("ruler/prepare_niah.py", "NEEDLE").replace(".", r"\.")
NEEDLE = NEEDLE.format(type_needle_v=r"(\w+)s", key=r"(\S+)", value=r"([\w-]+)")
LENGTH = 2500  # this tokenizer's tokens are short
SQUAD = {
    "data": [
        {
            "title": f"article {a}",
            "paragraphs": [
                {
                    "context": f"Passage {a}-{p}.",
                    "qas": [
                        {"question": f"What about {a}-{p}?", "answers": [{"text": f"{a}-{p}"}, {"text": "that"}]},
                        {"question": "And nothing?", "answers": []},
                    ],
                }
                for p in range(3)
            ],
        }
        for a in range(4)
    ]
}
HOTPOT = [
    {"question": f"Which {q}?", "answer": f"this {q}",
     "context": [[f"title {q}{p}", ["One. ", "Two."]] for p in range(10)]}
    for q in range(5)
]  # fmt: skip


def made(name: str, tokenizer, limit: int = 3, length: int = LENGTH, **more: object) -> list[Example]:
    return list(get_task(name).examples(TaskSettings(tokenizer=tokenizer, lengths=(length,), limit=limit, **more)))


@pytest.mark.parametrize("name", [name for name in task_names() if name.startswith("ruler_")])
def test_rules(name: str) -> None:
    task = get_task(name)
    assert task.max_new_tokens == NEW_TOKENS[name.split("_")[1]]
    assert task.chat
    assert not task.stops_at_newline


@pytest.mark.parametrize("name", OFFLINE)
@pytest.mark.parametrize("kind", ["tokenizer", "chat_tokenizer"])
def test_prompts_and_answers_fill_the_length_and_no_more(name: str, kind: str, request) -> None:
    tokenizer, task = request.getfixturevalue(kind), get_task(name)
    length = 6000 if name == "ruler_cwe" else LENGTH
    for example in made(name, tokenizer, length=length):
        used = token_count(tokenizer, Draft(example.context, example.question, (), example.answer_prefix))
        assert used + task.max_new_tokens <= length
        assert used + task.max_new_tokens > 0.85 * length
        assert example.length == length


@pytest.mark.parametrize("name", OFFLINE)
def test_the_seed_decides(name: str, tokenizer) -> None:
    length = 6000 if name == "ruler_cwe" else LENGTH
    first = made(name, tokenizer, length=length)
    assert made(name, tokenizer, length=length) == first
    assert made(name, tokenizer, limit=2, length=length) == first[:2]
    assert len({example.context for example in first}) == 3
    assert len({example.name for example in first}) == 3
    assert {example.context for example in made(name, tokenizer, length=length, seed=1)}.isdisjoint(
        example.context for example in first
    )


@pytest.mark.parametrize("name", OFFLINE)
def test_the_answers_are_in_the_text_and_score(name: str, tokenizer) -> None:
    for example in made(name, tokenizer, length=6000 if name == "ruler_cwe" else LENGTH):
        assert all(answer in example.context for answer in example.answers)
        assert get_task(name).score(example.answers, (), "They are " + ", ".join(example.answers)) == 1
        assert get_task(name).score(example.answers, (), "No idea") == 0
        assert example.answer_prefix.startswith(" ")


@pytest.mark.parametrize(
    ("name", "needles", "answers", "key", "value"),
    [
        ("niah_single_1", 1, 1, "word", "number"), ("niah_single_2", 1, 1, "word", "number"),
        ("niah_single_3", 1, 1, "word", "uuid"), ("niah_multikey_1", 4, 1, "word", "number"),
        ("niah_multikey_2", None, 1, "word", "number"), ("niah_multikey_3", None, 1, "uuid", "uuid"),
        ("niah_multivalue", 4, 4, "word", "number"), ("niah_multiquery", 4, 4, "word", "number"),
    ],
)  # fmt: skip
def test_needles(name, needles, answers, key, value, tokenizer) -> None:
    adjectives, nouns = (set(words) for words in word_lists())
    for example in made(f"ruler_{name}", tokenizer):
        hidden = re.findall(NEEDLE, example.context)
        assert len(hidden) == needles or (needles is None and len(hidden) > 10)
        assert {kind for kind, _, _ in hidden} == {value}
        asked = {key for _, key, _ in hidden if key in example.question}
        assert len(asked) == (4 if name == "niah_multiquery" else 1)
        assert sorted(example.answers) == sorted(found for _, key, found in hidden if key in asked)
        assert len(example.answers) == answers
        for _, name_of, found in hidden:
            if key == "uuid":
                assert UUID(name_of).version == 4
            else:
                parts = [
                    name_of[:i] in adjectives and name_of[i + 1 :] in nouns for i, c in enumerate(name_of) if c == "-"
                ]
                assert any(parts)
            assert UUID(found).version == 4 if value == "uuid" else re.fullmatch("[1-9][0-9]{6}", found)
        assert example.answer_prefix.endswith(" is" if answers == 1 else " are")
        assert ("What is the" in example.question) == (answers == 1)


def test_essay_needles_stand_between_sentences_at_spread_depths(tokenizer, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("The lamp is lit. " * 40)
    depths = []
    for example in made("ruler_niah_single_2", tokenizer, limit=30, haystack=tmp_path):
        before, needle, after = re.split(f"({NEEDLE.replace('(', '(?:')})", example.context)
        assert needle
        assert before.endswith(("lit. ", "\n"))
        assert after == "" or after.startswith(" The")
        depths.append(len(before) / len(example.context))
    assert min(depths) < 0.2
    assert max(depths) > 0.8


def test_variable_tracking_is_one_chain_in_order(tokenizer) -> None:
    for example in made("ruler_vt", tokenizer):
        solved, puzzle = example.context.rsplit("\n\n", 1)[0], example.context.split("\n\n")[-1]
        lines = re.findall(r"VAR ([A-Z]{5}) = (?:VAR ([A-Z]{5})|(\d{5}))", puzzle)
        assert [name for name, _, _ in lines] == list(example.answers)
        assert lines[0][2] in example.question
        assert all(before == name for (name, _, _), (_, before, _) in pairwise(lines))
        assert len(re.findall("VAR [A-Z]{3} = ", solved)) == 5  # the solved example


@pytest.mark.parametrize(("length", "common", "other", "listed"), [(6000, 30, 3, 190), (3500, 6, 1, 40)])
def test_common_words(length: int, common: int, other: int, listed: int, tokenizer) -> None:
    for example in made("ruler_cwe", tokenizer, length=length):
        solved, asked = example.context.split(example.answer_prefix)
        counts = Counter(re.findall(r"\d+\. (.+?)(?= \d+\.|$)", asked.split("\n")[-1]))
        assert {word for word, count in counts.items() if count == common} == set(example.answers)
        assert set(counts.values()) == {common, other}
        assert set(counts) <= set(all_words())
        assert len(re.findall(r"\d+\. ", solved)) == listed  # the solved example


def test_there_are_8166_words() -> None:
    assert len(all_words()) == 8166


def test_frequent_words_fall_off_as_the_square_of_their_rank(tokenizer) -> None:
    start = constant("ruler/fwe_utils.py", "CONFIG")["template"].partition("{context}")[0]
    for example in made("ruler_fwe", tokenizer):
        counts = Counter(re.findall(r"\.\.\.|\b[a-z]{6}\b", example.context.removeprefix(start)))
        ranked = counts.most_common(4)
        assert ranked[0][0] == "..."
        assert tuple(word for word, _ in ranked[1:]) == example.answers
        first = ranked[0][1]
        for rank, (_, count) in enumerate(ranked, start=1):
            assert abs(count - first / rank**2) <= 1
        assert len(counts) <= (LENGTH - 50) // 50


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    (tmp_path / "ruler" / "sources").mkdir(parents=True)
    (tmp_path / "ruler" / "sources" / "squad.json").write_text(json.dumps(SQUAD))
    (tmp_path / "ruler" / "sources" / "hotpotqa.json").write_text(json.dumps(HOTPOT))
    return tmp_path


def test_squad(tokenizer, sources: Path) -> None:
    """Answerable questions in order, the right passage among others, first of the same article."""
    examples = made("ruler_qa_squad", tokenizer, length=700, data_dir=sources)
    assert [example.answers[0] for example in examples] == ["0-0", "0-1", "0-2"]
    for example in examples:
        assert example.question.endswith(f"What about {example.answers[0]}?")
        shown = re.findall(r"\w+ (\d+):\nPassage (\d)-(\d)\.", example.context)
        assert [int(number) for number, _, _ in shown] == list(range(1, len(shown) + 1))
        assert len(shown) == len(set(shown)) >= 4
        assert {("0", "0"), ("0", "1"), ("0", "2")} <= {(article, passage) for _, article, passage in shown}
        assert example.answer_prefix == " Answer:"


def test_hotpotqa(tokenizer, sources: Path) -> None:
    for number, example in enumerate(made("ruler_qa_hotpot", tokenizer, length=1500, data_dir=sources)):
        assert example.answers == (f"this {number}",)
        assert {f"title {number}{p}\nOne. Two." in example.context for p in range(10)} == {True}


def test_questions_from_the_hub(tokenizer, sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        {"title": article["title"], "context": paragraph["context"], "question": entry["question"],
         "answers": {"text": [each["text"] for each in entry["answers"]]}}
        for article in SQUAD["data"] for paragraph in article["paragraphs"] for entry in paragraph["qas"]
    ]  # fmt: skip
    titled = [
        {**row, "context": {"title": [t for t, _ in row["context"]], "sentences": [s for _, s in row["context"]]}}
        for row in HOTPOT
    ]
    for task, found, length in (("ruler_qa_squad", rows, 700), ("ruler_qa_hotpot", titled, 1500)):
        monkeypatch.setattr("lavakv.tasks.ruler.reading.hub_records", lambda _, found=found: found)
        from lavakv.tasks.ruler.reading import reading

        reading.cache_clear()
        assert made(task, tokenizer, length=length) == made(task, tokenizer, length=length, data_dir=sources)
        reading.cache_clear()


@pytest.mark.parametrize("name", ["squad", "hotpot"])
def test_questions_that_are_not_there(name: str, tokenizer, tmp_path: Path) -> None:
    """A run leaves the task out then; see the tests of evaluation."""
    with pytest.raises(DataUnavailableError, match=f"{name}.*json: expected {name}.*'s development set, got no file"):
        made(f"ruler_qa_{name}", tokenizer, data_dir=tmp_path)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("{", "format"),
        ('{"data": []}', "questions with answers"),
        (json.dumps(SQUAD).replace('"0-1"', "null"), "an answer that is NoneType"),
        (None, "expected a file that can be read, got Is a directory"),
    ],
)
def test_a_file_that_is_broken(content: str | None, match: str, tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "ruler" / "sources" / "squad.json"
    path.parent.mkdir(parents=True)
    if content is None:
        path.mkdir()
    else:
        path.write_text(content)
    with pytest.raises(TaskError, match=match) as caught:
        made("ruler_qa_squad", tokenizer, data_dir=tmp_path)
    assert not isinstance(caught.value, DataUnavailableError)


def test_too_short_and_no_tokenizer(tokenizer) -> None:
    with pytest.raises(TaskError, match="length: expected prompts of 172 tokens"):
        made("ruler_niah_single_1", tokenizer, length=300)
    with pytest.raises(TaskError, match="tokenizer"):
        next(get_task("ruler_vt").examples(TaskSettings()))


def test_the_form_is_that_of_published_samples(slices: Path) -> None:
    """Take the values out of one of our prompts and one of NVIDIA's: the same text is left."""
    path = slices / "ruler" / "4096" / "niah_multikey_3.jsonl"
    if not path.is_file():
        pytest.skip(f"no {path.name} among the slices")
    record = json.loads(path.open(encoding="utf-8").readline())
    ours = made("ruler_niah_multikey_3", _Characters(), limit=1, length=len(record["input"]))[0]
    skeletons = [
        re.sub(r"(One of [^\n]*\n)+", "HAY\n", re.sub(r"[0-9a-f-]{36}", "UUID", prompt))
        for prompt in (ours.context + ours.question + ours.answer_prefix, record["input"])
    ]
    assert skeletons[0] == skeletons[1]
    assert abs(ours.context.count("\n") - record["input"].count("\n")) < 5


class _Characters:
    """Counts characters; knows no special tokens, so that it makes no difference whether they are asked for."""

    chat_template = None

    def __call__(self, text: str, *, add_special_tokens: bool) -> dict[str, str]:
        return {"input_ids": text}
