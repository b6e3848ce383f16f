from __future__ import annotations

from pathlib import Path

import pytest

from lavakv import TaskError
from lavakv.tasks import TaskSettings, get_task, task_names
from lavakv.tasks.example import Example
from lavakv.tasks.infinitebench.table import ROWS
from tests.tasks.made_up import infinitebench, write

ALL = [name for name in task_names() if name.startswith("infinitebench_")]
TOKENS = {
    "passkey": 6, "number_string": 12, "kv_retrieval": 50, "longbook_sum_en": 1200, "longbook_choice_en": 40,
    "longbook_qa_en": 40, "longbook_qa_chn": 40, "longdialogue_qa_en": 40, "math_find": 3, "math_calc": 30000,
    "code_run": 5, "code_debug": 5,
}  # fmt: skip
OPTIONS = ["one", "two", "three", "four"]
OFFICIAL = """
yarn_mistral_templates = {
    "code_run": "<{func}|{func_call}|{context}>",
    "longbook_choice_eng": "<{context}|{question}|{OPTION_A}|{OPTION_D}>",
    "math_find": "<{prefix}|{context}|{input}>",
}
raise RuntimeError("this file is read, not run")
"""


def one(short: str, folder: Path, **changes: object) -> Example:
    write(folder / "infinitebench" / f"{ROWS[short].official}.jsonl", [infinitebench(**changes)])
    (example,) = get_task(f"infinitebench_{short}").examples(TaskSettings(data_dir=folder))
    return example


@pytest.mark.parametrize("name", ALL)
def test_rules(name: str) -> None:
    task = get_task(name)
    assert task.max_new_tokens == TOKENS[name.removeprefix("infinitebench_")]
    assert not task.chat


@pytest.mark.parametrize("name", ALL)
def test_a_prompt_holds_the_record_and_parts_behind_its_context(name: str, tmp_path: Path) -> None:
    example = one(
        name.removeprefix("infinitebench_"),
        tmp_path,
        answer=["two"] if "choice" in name or "debug" in name else ["12"],
        options=OPTIONS,
    )
    assert example.context.endswith("A long {text}.")
    assert "A long {text}." not in example.question
    assert example.name == "7"


@pytest.mark.parametrize("short", ["longbook_choice_en", "code_debug"])
def test_the_right_letter_is_found(short: str, tmp_path: Path) -> None:
    example = one(short, tmp_path, answer=["three"], options=OPTIONS)
    assert (example.answers, example.classes) == (("three", "C"), tuple(OPTIONS))
    assert all(f"{letter}. {option}" in example.question for letter, option in zip("ABCD", OPTIONS, strict=True))
    assert one(short, tmp_path, answer=["three", "C"], options=OPTIONS).answers == ("three", "C")
    with pytest.raises(TaskError, match="line 1"):
        one(short, tmp_path, answer=["five"], options=OPTIONS)


def test_numbers_come_as_numbers_or_as_text(tmp_path: Path) -> None:
    for answer in ([4], ["4"]):
        assert one("code_run", tmp_path, answer=answer).answers == ("4",)
    for answer in ([4, 8], ["4", "8"], [[4, 8]]):
        assert one("math_calc", tmp_path, answer=answer).answers == ("4", "8")
    for short in ("math_calc", "math_find", "code_run"):
        with pytest.raises(TaskError, match="line 1"):
            one(short, tmp_path, input="func_1(2)", answer=["four"])


def test_the_sum_s_own_prompt_asks_for_what_the_score_wants(tmp_path: Path) -> None:
    """The benchmark's examples list the first number, too, and whoever follows them gets nothing."""
    example = one("math_calc", tmp_path, context="1 + 3 + 4", answer=[4, 8])
    assert get_task("infinitebench_math_calc").score(example.answers, (), "4, 8") == 1
    assert get_task("infinitebench_math_calc").score(example.answers, (), "1, 4, 8") == 0
    assert "after each operation" in example.prompt


def test_the_benchmark_s_own_prompts_are_used_where_they_lie_beside_the_data(tmp_path: Path) -> None:
    (tmp_path / "infinitebench").mkdir()
    (tmp_path / "infinitebench" / "prompt.py").write_text(OFFICIAL)
    run = one("code_run", tmp_path, input="Give func_12(-3) now", answer=[1])
    assert run.prompt == "<func_12|func_12(-3)|A long {text}.>"
    choice = one("longbook_choice_en", tmp_path, answer=["two"], options=OPTIONS)
    assert choice.prompt == "<A long {text}.|And the question?|one|four>"
    find = one("math_find", tmp_path, input="The third number of the list is: ", answer=[1])
    prefix, context, question = find.prompt.strip("<>").split("|")
    assert "the third number" in prefix
    assert (context, question) == ("A long {text}.", "The third number of the list is: ")


@pytest.mark.parametrize(
    ("source", "got"), [("x = (", "was never closed"), ("y = 3", "none"), ("yarn_mistral_templates = f()", "malformed")]
)
def test_a_prompt_file_that_is_something_else(source: str, got: str, tmp_path: Path) -> None:
    (tmp_path / "infinitebench").mkdir()
    (tmp_path / "infinitebench" / "prompt.py").write_text(source)
    with pytest.raises(TaskError, match=got):
        one("code_run", tmp_path, input="func_1(2)", answer=[1])


def test_a_hub_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def no_hub(*arguments: object, **options: object) -> None:
        raise OSError("offline")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", no_hub)
    with pytest.raises(TaskError, match=r"InfiniteBench/passkey\.jsonl: expected to load it from the hub, got offline"):
        list(get_task("infinitebench_passkey").examples(TaskSettings()))


def test_the_hub_s_file_is_read_as_a_local_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub

    path = write(tmp_path / "fetched.jsonl", [infinitebench()])
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *_, **__: str(path))
    assert next(get_task("infinitebench_passkey").examples(TaskSettings())) == one("passkey", tmp_path)
