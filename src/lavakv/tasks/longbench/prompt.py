"""LongBench's official prompts: the harness's templates, with the white space put back that the harness lost."""

from __future__ import annotations

from lavakv.tasks.harness.config import task_config

# config/dataset2prompt.json ends these four in white space ...
_ENDS = {"lcc": "\n", "repobench-p": "\n", "passage_count": " ", "passage_retrieval_en": " "}
# ... and leaves an empty line between the examples and the question of these two.
_PARTED = ("triviaqa", "samsum")


def official_template(dataset: str, file: str) -> str:
    """A Jinja template with the fields `context` and `question`.

    Args:
        dataset: name in LongBench, without `_e`.
        file: name of the harness's description, without `.yaml`.

    Raises:
        MissingExtraError: no harness.
        TaskError: another harness.
    """
    template = str(task_config(f"longbench/{file}.yaml")["doc_to_text"])
    if dataset in _PARTED:
        before, _, after = template.partition("{{context}}")
        template = f"{before}{{{{context}}}}\n\n{after.lstrip(chr(10))}"
    end = _ENDS.get(dataset)
    return template if end is None else template.rstrip() + end
