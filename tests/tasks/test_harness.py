"""Tasks of the harness without official counterpart, on made-up records."""

from __future__ import annotations

from pathlib import Path

import pytest

from lavakv import MissingExtraError, TaskError
from lavakv.tasks import TaskSettings, get_task
from lavakv.tasks.harness import descriptions
from lavakv.tasks.harness.descriptions import harness_index, task_config
from lavakv.tasks.harness.prompt import fill_template, split_after
from tests.tasks.made_up import write


@pytest.fixture
def sums(tmp_path: Path) -> Path:
    for split, count in (("train", 6), ("test", 3)):
        records = [{"question": f"{n} and {n}?", "answer": f"It is {2 * n}.\n#### {2 * n}"} for n in range(count)]
        write(tmp_path / "harness" / "gsm8k" / f"{split}.jsonl", records)
    return tmp_path


def test_a_task_by_its_name(sums: Path) -> None:
    task = get_task("gsm8k")
    assert (task.name, task.metric, task.chat, task.version) == ("gsm8k", "exact_match", False, "harness-3.0")
    assert "Question:" in task.stop_strings
    examples = list(task.examples(TaskSettings(data_dir=sums, limit=2)))
    assert [example.name for example in examples] == ["0", "1"]
    assert examples[1].prompt.count("Question:") == 6  # five solved ones from the training part
    assert examples[1].prompt.endswith("Question: 1 and 1?\nAnswer:")
    assert list(task.examples(TaskSettings(data_dir=sums, limit=2))) == examples


@pytest.mark.parametrize(
    ("prediction", "score"),
    [("So: #### 2", 1), ("So: #### 3", 0), ("2", 0), ("#### 3\nQuestion: #### 2", 0),
     ("#### 2\nQuestion: #### 3", 1)],
)  # fmt: skip
def test_its_own_filters_metric_and_stops(prediction: str, score: float, sums: Path) -> None:
    task = get_task("gsm8k")
    example = list(task.examples(TaskSettings(data_dir=sums)))[1]
    assert task.score(example.answers, example.classes, prediction) == score


def test_names_say_how_a_record_was_scored() -> None:
    assert get_task("longbench_lcc", "harness").name == "harness:longbench_lcc"
    assert get_task("harness:longbench_lcc") == get_task("longbench_lcc", "harness")
    assert get_task("longbench_lcc").name == "longbench_lcc"


def test_a_missing_split(sums: Path) -> None:
    (sums / "harness" / "gsm8k" / "train.jsonl").unlink()
    with pytest.raises(TaskError, match="the train split of gsm8k"):
        list(get_task("gsm8k").examples(TaskSettings(data_dir=sums)))


def test_a_hub_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def no_hub(*arguments: object, **options: object) -> None:
        raise ConnectionError("offline")

    monkeypatch.setattr(datasets, "load_dataset", no_hub)
    with pytest.raises(TaskError, match="harness task gsm8k: expected a loadable task, got offline"):
        list(get_task("gsm8k").examples(TaskSettings()))


def test_a_task_that_does_not_generate_or_is_python() -> None:
    with pytest.raises(TaskError, match="'hellaswag', which does not generate text"):
        get_task("hellaswag")
    with pytest.raises(TaskError, match="one in Python"):
        get_task("xsum")


def test_a_metric_of_whole_sets(tmp_path: Path) -> None:
    """BLEU of a corpus has no score of an example."""
    task = get_task("iwslt2017-ar-en")
    for split in ("train", "validation", "test"):
        record = {"translation": {"ar": "a", "en": "red"}}
        write(tmp_path / "harness" / task.name / f"{split}.jsonl", [record])
    (example,) = task.examples(TaskSettings(data_dir=tmp_path))
    with pytest.raises(TaskError, match="a score of 0 to 1 for each example"):
        task.score(example.answers, example.classes, "red")


def test_a_scorer_that_fails(sums: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lm_eval.api.task import ConfigurableTask

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    example = next(get_task("gsm8k").examples(TaskSettings(data_dir=sums)))
    monkeypatch.setattr(ConfigurableTask, "process_results", fail)
    with pytest.raises(TaskError, match="metric of harness task gsm8k: expected a score, got ZeroDivisionError"):
        get_task("gsm8k").score(example.answers, example.classes, "text")


def test_classes_that_are_no_record() -> None:
    for classes in ((), ("text",)):
        with pytest.raises(TaskError, match="classes of gsm8k: expected its JSON"):
            get_task("gsm8k").score(("4",), classes, "4")


def test_a_record_without_an_answer(sums: Path) -> None:
    write(
        sums / "harness" / "gsm8k" / "test.jsonl",
        [{"question": "1?", "answer": " "}, {"question": "2?", "answer": "2"}],
    )
    with pytest.raises(TaskError, match="gsm8k, record 0: expected a record of the task, got no answers"):
        list(get_task("gsm8k").examples(TaskSettings(data_dir=sums)))
    (example,) = get_task("gsm8k").examples(TaskSettings(data_dir=sums, skip_broken=True))
    assert example.answers == ("2",)


def test_answers_that_only_the_harness_s_scorer_reads(sums: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Objects and truth values are its own business; null is no answer there either."""
    from lm_eval.api.task import ConfigurableTask

    monkeypatch.setattr(ConfigurableTask, "fewshot_context", lambda *_, **__: "Is it?")
    for target, answers in (({"text": ["4"]}, ('{"text": ["4"]}',)), ([True, 4], ("true", "4")), (None, None)):
        monkeypatch.setattr(ConfigurableTask, "doc_to_target", lambda *_, target=target, **__: target)
        examples = get_task("gsm8k").examples(TaskSettings(data_dir=sums))
        if answers is not None:
            assert next(examples).answers == answers
            continue
        with pytest.raises(TaskError, match=r"gsm8k, record 0: .* got an answer that is NoneType"):
            next(examples)


def test_a_task_that_lacks_a_package(monkeypatch: pytest.MonkeyPatch) -> None:
    from lm_eval.tasks import _yaml_loader

    def fail(*_: object, **__: object) -> None:
        raise ImportError("no module named antlr4")

    monkeypatch.setattr(_yaml_loader, "load_yaml", fail)
    task_config.cache_clear()
    with pytest.raises(MissingExtraError, match=r"no module named antlr4\. Run: pip install"):
        task_config("longbench/qasper.yaml")


def test_the_index_knows_what_the_harness_knows() -> None:
    index = harness_index()
    assert index["gsm8k"] == "gsm8k/gsm8k.yaml"
    assert index["longbench_repobench-p_e"] == "longbench/repobench-p_e.yaml"
    assert len(index) > 10_000


def test_texts_are_read_without_running_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "x.py").write_text(
        "raise SystemExit\nA = 'one' if False else f()\ndef f():\n    b = {'c': 2}\n"
    )
    monkeypatch.setattr(descriptions, "package_folder", lambda _: tmp_path)
    assert descriptions.constant("x.py", "b") == {"c": 2}
    for file, name in (("x.py", "A"), ("y.py", "b")):
        with pytest.raises(TaskError, match=r"Install lm-eval 0\.4\.13"):
            descriptions.constant(file, name)


def test_another_harness() -> None:
    with pytest.raises(TaskError, match=r"Install lm-eval 0\.4\.13"):
        task_config("longbench/nonsense.yaml")


def test_no_harness(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("lavakv.tasks.extras.find_spec", lambda _: None)
    harness_index.cache_clear()
    for name in ("harness:longbench_lcc", "gsm8k"):
        with pytest.raises((MissingExtraError, TaskError)) as caught:
            get_task.__wrapped__(name)
        assert name in str(caught.value) or "pip install 'lavakv[eval]'" in str(caught.value)
    harness_index.cache_clear()


def test_filling_and_splitting() -> None:
    assert fill_template("{{a}}-{{b}}\n", {"a": "{{b}}", "b": "<&>"}) == "{{b}}-<&>\n"
    assert fill_template(lambda record: record["a"] + "!", {"a": "x"}) == "x!"
    with pytest.raises(Exception, match="undefined"):
        fill_template("{{c}}", {"a": "x"})
    assert split_after("before text after", "text") == ("before text", " after")
    assert split_after("no such", "text") == ("", "no such")
    assert split_after("no context", "") == ("", "no context")
