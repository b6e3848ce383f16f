"""A task of InfiniteBench under the paper's protocol."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from typing_extensions import override

from lavakv.tasks.data import read_lines, text
from lavakv.tasks.example import Example
from lavakv.tasks.halves import chosen_examples
from lavakv.tasks.harness.prompt import split_after
from lavakv.tasks.hub import hub_file
from lavakv.tasks.infinitebench.prompt import prompt_of
from lavakv.tasks.infinitebench.table import ROWS
from lavakv.tasks.settings import TaskSettings
from lavakv.tasks.task import Task, check_answers, check_protocol

_HUB = "xinrongzhang2022/InfiniteBench"


@dataclass(frozen=True)
class InfiniteBenchTask(Task):
    """One task of InfiniteBench.

    Attributes:
        dataset: the harness's name of the task, without the benchmark's.
    """

    dataset: str = ""

    @override
    def examples(self, settings: TaskSettings) -> Iterator[Example]:
        check_protocol(self, settings)
        row = ROWS[self.dataset]
        folder = settings.data_dir / "infinitebench" if settings.data_dir is not None else None
        file = f"{row.official}.jsonl"
        path = hub_file(_HUB, file) if folder is None else folder / file

        def parse(record: dict[str, Any], index: int) -> Example:
            prompt = prompt_of(self.dataset, row, record, folder)
            context, question = split_after(prompt, text(record, "context"))
            answers = row.answers(record)
            row.scorer("", answers, ())  # unusable answers are found here, not after a run
            return Example(
                task=self.name,
                name=str(record.get("id", index)),
                context=context,
                question=question,
                answers=answers,
                classes=tuple(str(option) for option in record.get("options") or ()),
            )

        return chosen_examples(read_lines(path, parse, skip_broken=settings.skip_broken), settings)

    @override
    def score(self, answers: Sequence[str], classes: Sequence[str], prediction: str) -> float:
        return ROWS[self.dataset].scorer(prediction, check_answers(self, answers), classes)


def infinitebench_tasks() -> dict[str, InfiniteBenchTask]:
    """The twelve tasks, by name."""
    tasks = (
        InfiniteBenchTask(
            name=f"infinitebench_{name}",
            benchmark="InfiniteBench",
            group=row.group,
            metric=row.metric,
            max_new_tokens=row.max_new_tokens,
            chat=False,
            dataset=name,
        )
        for name, row in ROWS.items()
    )
    return {task.name: task for task in tasks}
