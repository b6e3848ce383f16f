"""Where the harness differs from the official benchmarks; each line of the list in docs/tasks.md has a test here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from lavakv.tasks import TaskSettings, get_task
from lavakv.tasks.extras import package_folder
from tests.tasks.made_up import infinitebench, longbench, write

# task, prediction, answers as in the record, classes or options, official score, harness score
SCORES = [
    ("longbench_lcc", "# note\n\nz = 3", ["z = 3"], None, 0, 1),
    ("longbench_trec", "\nPlant", ["Plant"], ["Plant", "Animal"], 1, 0),
    ("longbench_triviaqa", "\nPorto", ["Porto"], None, 1, 0),
    ("longbench_samsum", "\nred", ["red"], None, 0.999999995, 0),
    ("infinitebench_longbook_choice_en", "D, or rather A", ["one"], "options", 0, 1),
    ("infinitebench_longbook_choice_en", "Definitely A", ["one"], "options", 0, 1),
    ("infinitebench_longbook_choice_en", "one", ["one"], "options", 1, 0),
    ("infinitebench_code_debug", "A", ["one"], "options", 0, 1),
    ("infinitebench_code_debug", "one", ["one"], "options", 0, 1),
    ("infinitebench_code_debug", "The answer is: A, not B", ["one"], "options", 1, 0),
    ("infinitebench_longdialogue_qa_en", "BECK", ["JIM", "BECK"], (), 0, 1),
    ("infinitebench_longdialogue_qa_en", "Jimmy", ["JIM"], (), 0, 1),
    ("infinitebench_longbook_sum_en", "cats", ["cat"], (), 0, 1),
    ("infinitebench_longbook_sum_en", "red", ["green", "red"], (), 1, 0),
    ("infinitebench_longbook_qa_en", "the-mill", ["mill"], (), 0, 1),
    ("infinitebench_longbook_qa_chn", "“北京”", ["北京"], (), 1, 2 * (2 / 4) * 1 / (2 / 4 + 1)),
    ("infinitebench_kv_retrieval", "b", ["a", "b"], (), 0, 1),
    ("infinitebench_passkey", "\n12", ["12"], (), 1, 0),
]
OPTIONS = ["one", "two", "three", "four"]


def scores(name: str, folder: Path, prediction: str, answers: Sequence[str], classes: object) -> tuple[float, float]:
    """The official score and the harness's, of the same record."""
    short = name.partition("_")[2]
    if name.startswith("longbench"):
        write(folder / "longbench" / f"{short}.jsonl", [longbench(answers=answers, all_classes=classes)])
    else:
        options = OPTIONS if classes == "options" else []
        file = short.replace("_en", "_eng") + ".jsonl"
        write(folder / "infinitebench" / file, [infinitebench(answer=answers, options=options)])
    found = []
    for protocol in ("paper", "harness"):
        task = get_task(name, protocol)
        (example,) = task.examples(TaskSettings(protocol=protocol, data_dir=folder))
        found.append(task.score(example.answers, example.classes, prediction))
    return found[0], found[1]


@pytest.mark.parametrize(("name", "prediction", "answers", "classes", "official", "harness"), SCORES)
def test_scores(name, prediction, answers, classes, official, harness, tmp_path) -> None:
    assert scores(name, tmp_path, prediction, answers, classes) == (official, pytest.approx(harness, rel=2**-51))


def test_ruler_questions_take_any_reference() -> None:
    from lm_eval.tasks.ruler.common_utils import process_results_part

    record = {"outputs": ["Porto", "the city of Porto"], "max_length": 4096}
    assert process_results_part(record, ["Porto"])["4096"] == 0.5
    assert get_task("ruler_qa_squad").score(record["outputs"], (), "Porto") == 1


@pytest.mark.parametrize(
    ("dataset", "end"),
    [("lcc", "\n"), ("repobench-p", "\n"), ("passage_count", " "), ("passage_retrieval_en", " ")],
)
@pytest.mark.parametrize("suffix", ["", "_e"])
def test_prompts_end_in_white_space(dataset: str, end: str, suffix: str, tmp_path: Path) -> None:
    name, folder = f"longbench_{dataset}{suffix}", f"longbench{suffix}"
    write(tmp_path / folder / f"{dataset}{suffix}.jsonl", [longbench()])
    (official,) = get_task(name).examples(TaskSettings(data_dir=tmp_path))
    (other,) = get_task(name, "harness").examples(TaskSettings("harness", data_dir=tmp_path))
    assert official.prompt == other.prompt + end
    assert not other.prompt[-1].isspace()


@pytest.mark.parametrize("dataset", ["triviaqa", "samsum"])
def test_an_empty_line_before_the_question(dataset: str, tmp_path: Path) -> None:
    write(tmp_path / "longbench" / f"{dataset}.jsonl", [longbench()])
    (official,) = get_task(f"longbench_{dataset}").examples(TaskSettings(data_dir=tmp_path))
    (other,) = get_task(f"longbench_{dataset}", "harness").examples(TaskSettings("harness", data_dir=tmp_path))
    assert official.context == other.context
    assert (official.question, other.question) == ("\n\nWho mends the clock?", "\nWho mends the clock?")


@pytest.mark.parametrize("dataset", ["qasper", "gov_report", "dureader", "lsht", "passage_retrieval_zh", "trec"])
def test_other_prompts_are_the_same(dataset: str, tmp_path: Path) -> None:
    write(tmp_path / "longbench" / f"{dataset}.jsonl", [longbench()])
    (official,) = get_task(f"longbench_{dataset}").examples(TaskSettings(data_dir=tmp_path))
    (other,) = get_task(f"longbench_{dataset}", "harness").examples(TaskSettings("harness", data_dir=tmp_path))
    assert official.prompt == other.prompt


def test_common_words_come_with_a_solved_example(tokenizer) -> None:
    """The harness makes one and leaves it out of the prompt."""
    (example,) = get_task("ruler_cwe").examples(TaskSettings(lengths=(6000,), limit=1, tokenizer=tokenizer))
    assert example.context.count(example.answer_prefix) == 1


def test_the_harness_has_no_math_calc(tmp_path: Path) -> None:
    assert get_task("infinitebench_math_calc").metric == "Right beginning"
    with pytest.raises(Exception, match="harness:infinitebench_math_calc"):
        get_task("infinitebench_math_calc", "harness")


def test_ruler_s_spelling(tokenizer) -> None:
    assert "assgined" in (package_folder("lm_eval") / "tasks" / "ruler" / "vt_utils.py").read_text()
    (example,) = get_task("ruler_vt").examples(TaskSettings(lengths=(4096,), limit=1, tokenizer=tokenizer))
    assert "assgined" not in example.prompt + example.answer_prefix
    assert "assigned" in example.answer_prefix


def test_a_record_s_json_is_enough_for_the_harness_s_scorer(tmp_path: Path) -> None:
    write(tmp_path / "longbench" / "qasper.jsonl", [longbench()])
    (example,) = get_task("longbench_qasper", "harness").examples(TaskSettings("harness", data_dir=tmp_path))
    assert json.loads(example.classes[0])["answers"] == ["The miller 3", "a miller 3"]
    assert json.loads(example.classes[0])["context"] == ""  # of no use to the scorer, and long
