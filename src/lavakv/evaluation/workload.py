"""All prompts of a run, longest first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lavakv.errors import InputError
from lavakv.evaluation.prompt import Prompt, PromptKey
from lavakv.evaluation.prompt_maker import PromptMaker
from lavakv.evaluation.settings import EvalSettings
from lavakv.tasks.settings import TaskSettings
from lavakv.tasks.task import Task


def prompts_of(settings: EvalSettings, tasks: Mapping[str, Task], tokenizer: Any, config: Any) -> Iterator[Prompt]:
    """Prompts of all tasks, in the tasks' order.

    Raises:
        LavaError: data that cannot be found or read, two examples of one name, or a prompt that cannot be used.
    """
    maker, seen = PromptMaker(settings, tokenizer, config), set[PromptKey]()
    for task in tasks.values():
        for example in task.examples(task_settings(settings, tokenizer)):
            prompt = maker.make(task, example)
            if prompt.key in seen:
                raise InputError(
                    f"task {task.name}", expected="a name of its own for each example",
                    got=f"{example.name!r} twice", fix="Mend the data.",
                )  # fmt: skip
            seen.add(prompt.key)
            yield prompt


def longest_first(prompts: list[Prompt]) -> list[Prompt]:
    """Sorted so that what does not fit into memory fails first, and the time left is over- rather than underestimated.

    Ties go by task, name, length and depth, so that the order does not depend on where the examples came from.
    """
    return sorted(prompts, key=lambda prompt: (-prompt.num_tokens, *map(str, prompt.key)))


def task_settings(settings: EvalSettings, tokenizer: Any) -> TaskSettings:
    """The part of a run's settings that tasks read."""
    return TaskSettings(
        protocol=settings.protocol,
        data_dir=None if settings.data_dir is None else Path(settings.data_dir),
        limit=settings.limit,
        seed=settings.seed,
        lengths=settings.lengths,
        depths=settings.depths,
        tokenizer=tokenizer,
        haystack=None if settings.haystack is None else Path(settings.haystack),
        skip_broken=settings.skip_broken,
    )
