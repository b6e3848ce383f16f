"""All prompts of a run, longest first."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

from lavakv.errors import DataUnavailableError, InputError
from lavakv.evaluation.prompt import Prompt
from lavakv.evaluation.prompt_maker import PromptMaker
from lavakv.evaluation.record_keys import PromptKey
from lavakv.evaluation.settings import EvalSettings
from lavakv.tasks.settings import Half, TaskSettings
from lavakv.tasks.task import Task


class Workload(NamedTuple):
    """The prompts of a run.

    Attributes:
        prompts: of all tasks, longest first, the modes of an example next to each other.
        skipped: tasks that were left out, with the reason.
    """

    prompts: list[Prompt]
    skipped: dict[str, str]


def workload(settings: EvalSettings, tasks: Mapping[str, Task], tokenizer: Any, config: Any) -> Workload:
    """Prompts of all tasks. RULER tasks whose source texts are missing are left out; other missing data is an error.

    Raises:
        LavaError: data that cannot be found or read, two examples of one name, or a prompt that cannot be used.
    """
    maker = PromptMaker(settings, tokenizer, config)
    prompts, skipped = dict[PromptKey, list[Prompt]](), dict[str, str]()
    for task in tasks.values():
        try:
            for example in task.examples(task_settings(settings, task, tokenizer)):
                _add(prompts, maker.make(task, example))
        except DataUnavailableError as error:
            if task.benchmark != "RULER":
                raise
            skipped[task.name] = str(error)
    if not prompts:
        got = "; ".join(["none", *skipped.values()])
        raise InputError("tasks", expected="at least one prompt", got=got, fix="Check the data and --limit.")
    return Workload(longest_first([prompt for modes in prompts.values() for prompt in modes]), skipped)


def _add(prompts: dict[PromptKey, list[Prompt]], modes: list[Prompt]) -> None:
    key = modes[0].key
    if key in prompts:
        raise InputError(
            f"task {key.task}", expected="a different name for each example",
            got=f"{key.example!r} twice", fix="Fix or remove that record.",
        )  # fmt: skip
    prompts[key] = modes


def longest_first(prompts: list[Prompt]) -> list[Prompt]:
    """Sorted so that a lack of memory shows first, and the time left is over- rather than underestimated.

    Ties go by task, name, length and depth, so that the order does not depend on where the examples came from. The
    modes of an example stay together.
    """
    longest: dict[PromptKey, int] = {}
    for prompt in prompts:
        longest[prompt.key] = max(longest.get(prompt.key, 0), prompt.num_tokens)
    return sorted(prompts, key=lambda prompt: (-longest[prompt.key], *map(str, prompt.key)))


def task_settings(settings: EvalSettings, task: Task, tokenizer: Any) -> TaskSettings:
    """The part of a run's settings that a task reads."""
    return TaskSettings(
        protocol=settings.protocol,
        data_dir=None if settings.data_dir is None else Path(settings.data_dir),
        limit=settings.limit,
        seed=settings.seed,
        lengths=settings.lengths,
        depths=settings.depths,
        tokenizer=tokenizer,
        chat=settings.uses_chat(task),
        haystack=None if settings.haystack is None else Path(settings.haystack),
        skip_broken=settings.skip_broken,
        half=cast("Half | None", settings.half),
    )
