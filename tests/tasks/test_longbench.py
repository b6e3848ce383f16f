from __future__ import annotations

from pathlib import Path

import pytest

from lavakv import TaskError
from lavakv.tasks import TaskSettings, get_task, task_names
from lavakv.tasks.example import Example
from lavakv.tasks.harness.descriptions import task_config
from tests.tasks.made_up import longbench, write

ALL = [name for name in task_names() if name.startswith("longbench_") and not name.endswith("_e")]
EXTENDED = [name for name in task_names() if name.startswith("longbench_") and name.endswith("_e")]
# max new tokens, chat template?, stops at a newline?
RULES = {
    "narrativeqa": (128, True, False), "qasper": (128, True, False), "multifieldqa_en": (64, True, False),
    "multifieldqa_zh": (64, True, False), "hotpotqa": (32, True, False), "2wikimqa": (32, True, False),
    "musique": (32, True, False), "dureader": (128, True, False), "gov_report": (512, True, False),
    "qmsum": (512, True, False), "multi_news": (512, True, False), "vcsum": (512, True, False),
    "trec": (64, False, False), "triviaqa": (32, False, False), "samsum": (128, False, True),
    "lsht": (64, False, False), "passage_count": (32, True, False), "passage_retrieval_en": (32, True, False),
    "passage_retrieval_zh": (32, True, False), "lcc": (64, False, False), "repobench-p": (64, False, False),
}  # fmt: skip


def one(name: str, folder: Path, **changes: object) -> Example:
    file = name.removeprefix("longbench_")
    write(folder / ("longbench_e" if name.endswith("_e") else "longbench") / f"{file}.jsonl", [longbench(**changes)])
    (example,) = get_task(name).examples(TaskSettings(data_dir=folder))
    return example


def test_there_are_21_and_13() -> None:
    assert (len(ALL), len(EXTENDED)) == (21, 13)


@pytest.mark.parametrize("name", ALL + EXTENDED)
def test_rules(name: str) -> None:
    task = get_task(name)
    assert (task.max_new_tokens, task.chat, task.stops_at_newline) == RULES[
        name.removeprefix("longbench_").removesuffix("_e")
    ]


@pytest.mark.parametrize("name", ALL + EXTENDED)
def test_a_prompt_holds_the_record_once_and_parts_behind_its_context(name: str, tmp_path: Path) -> None:
    """Braces in a record are text, whatever the template language."""
    example, record = one(name, tmp_path), longbench()
    assert example.context.endswith(record["context"])
    assert example.prompt.count(record["context"]) == 1
    template = task_config(f"longbench/{name.removeprefix('longbench_')}.yaml")["doc_to_text"]
    assert example.question.count(record["input"]) == template.count("{{question}}")
    assert (example.name, example.answers, example.task) == ("r1", ("The miller 3", "a miller 3"), name)


@pytest.mark.parametrize(("length", "bucket"), [(0, "0-4k"), (3999, "0-4k"), (4000, "4-8k"), (8000, "8k+")])
def test_longbench_e_buckets(length: int, bucket: str, tmp_path: Path) -> None:
    assert one("longbench_qasper_e", tmp_path, length=length).group == bucket
    assert one("longbench_qasper", tmp_path, length=length).group == ""


def test_classes_and_names(tmp_path: Path) -> None:
    assert one("longbench_trec", tmp_path, all_classes=["A", "B"]).classes == ("A", "B")
    nameless = {key: value for key, value in longbench().items() if key != "_id"}
    write(tmp_path / "longbench" / "lcc.jsonl", [nameless, nameless])
    assert [each.name for each in get_task("longbench_lcc").examples(TaskSettings(data_dir=tmp_path))] == ["0", "1"]


def test_the_limit_counts_good_records(tmp_path: Path) -> None:
    write(tmp_path / "longbench" / "lcc.jsonl", ["broken", longbench(_id="a"), longbench(_id="b"), longbench(_id="c")])
    settings = TaskSettings(data_dir=tmp_path, limit=2, skip_broken=True)
    assert [each.name for each in get_task("longbench_lcc").examples(settings)] == ["a", "b"]


@pytest.mark.parametrize(
    ("line", "got"),
    [
        ("{", "Expecting"),
        ("[]", "list, not an object"),
        (longbench(answers=[]), "no answers"),
        (longbench(answers=[" "]), "no answers"),
        (longbench(answers=None), "an answer that is NoneType, neither text nor a number"),
        (longbench(answers=["a miller", None]), "an answer that is NoneType"),
        (longbench(answers={}), "an answer that is dict"),
        (longbench(answers={"text": ["a miller"]}), "an answer that is dict"),
        (longbench(answers=False), "an answer that is bool"),
        (longbench(answers=[["a miller"]]), "an answer that is list"),
        (longbench(context=None), "context is NoneType"),
        ({"input": "?", "context": "text"}, "no field 'answers'"),
        ('{"context": "\\ud800"', "Expecting"),
    ],
)
def test_a_broken_record_is_named_with_its_line(line: object, got: str, tmp_path: Path) -> None:
    path = write(tmp_path / "longbench" / "qasper.jsonl", [longbench(), "", line, longbench()])  # type: ignore[list-item]
    found = get_task("longbench_qasper").examples(TaskSettings(data_dir=tmp_path))
    assert next(found).name == "r1"
    with pytest.raises(TaskError, match=got) as caught:
        next(found)
    assert caught.value.argument == f"{path}, line 3"
    skipping = TaskSettings(data_dir=tmp_path, skip_broken=True)
    assert len(list(get_task("longbench_qasper").examples(skipping))) == 2


def test_answers_that_the_score_cannot_use_are_found_while_reading(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"line 1: .* got no number in the answer 'Paragraph'"):
        one("longbench_passage_retrieval_en", tmp_path, answers=["Paragraph"])


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = write(tmp_path / "longbench" / "qasper.jsonl", [longbench()])
    path.write_bytes(path.read_bytes() + b'{"context": "\xff"}\n')
    with pytest.raises(TaskError, match="line 2: expected a record of the task, got 'utf-8' codec"):
        list(get_task("longbench_qasper").examples(TaskSettings(data_dir=tmp_path)))


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"qasper\.jsonl: expected a data file"):
        list(get_task("longbench_qasper").examples(TaskSettings(data_dir=tmp_path)))


def test_a_hub_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def no_hub(*arguments: object, **options: object) -> None:
        raise ConnectionError("no route\nand more")

    monkeypatch.setattr(datasets, "load_dataset", no_hub)
    with pytest.raises(TaskError, match=r"data set .*LongBench: expected to load it from the hub, got no route\."):
        list(get_task("longbench_qasper").examples(TaskSettings()))


def test_the_hub_renames_the_question(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import datasets

    record = longbench()
    renamed = {("question" if key == "input" else key): value for key, value in record.items()}
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: [renamed])
    assert next(get_task("longbench_qasper").examples(TaskSettings())) == one("longbench_qasper", tmp_path)


def test_official_scores_are_not_for_the_harness_s_prompts(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="paper, longbench_lcc is official"):
        list(get_task("longbench_lcc").examples(TaskSettings(protocol="harness", data_dir=tmp_path)))


def test_no_answers_no_score() -> None:
    with pytest.raises(TaskError, match="answers of longbench_lcc"):
        get_task("longbench_lcc").score((), (), "text")
