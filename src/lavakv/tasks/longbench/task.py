"""A task of LongBench under the paper's protocol."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from typing_extensions import override

from lavakv.tasks.example import Example
from lavakv.tasks.harness.prompt import filled, split_after
from lavakv.tasks.longbench.prompt import official_template
from lavakv.tasks.longbench.table import ROWS
from lavakv.tasks.metrics.scorer import Scorer
from lavakv.tasks.records import parsed_records, strings
from lavakv.tasks.settings import TaskSettings
from lavakv.tasks.task import Task, checked


@dataclass(frozen=True)
class LongBenchTask(Task):
    """One data set of LongBench or LongBench-E.

    Attributes:
        dataset: its name there, without `_e`.
        extended: LongBench-E.
        scorer: the official metric.
    """

    dataset: str = ""
    extended: bool = False
    scorer: Scorer | None = None

    @property
    def file(self) -> str:
        """Name of the data file and of the harness's description."""
        return f"{self.dataset}_e" if self.extended else self.dataset

    @override
    def examples(self, settings: TaskSettings) -> Iterator[Example]:
        template = official_template(self.dataset, self.file)
        folder = "longbench_e" if self.extended else "longbench"

        def parse(record: dict[str, Any], index: int) -> Example:
            return self._example(template, record, index)

        harness_file = f"longbench/{self.file}.yaml"
        return islice(parsed_records(settings, f"{folder}/{self.file}.jsonl", harness_file, parse), settings.limit)

    def _example(self, template: str, record: dict[str, Any], index: int) -> Example:
        context = record["context"]
        question = record["input"] if "input" in record else record["question"]  # the harness's copy renamed it
        prompt = filled(template, {"context": context, "question": question})
        before, after = split_after(prompt, context)
        return Example(
            task=self.name,
            name=str(record.get("_id") or index),
            context=before,
            question=after,
            answers=strings(record["answers"]),
            classes=tuple(record.get("all_classes") or ()),
            group=_bucket(record["length"]) if self.extended else "",
        )

    @override
    def score(self, answers: Sequence[str], classes: Sequence[str], prediction: str) -> float:
        assert self.scorer is not None
        return self.scorer(prediction, checked(self, answers), classes)


def _bucket(length: int) -> str:
    """LongBench-E reports three ranges of words."""
    return "0-4k" if length < 4000 else "4-8k" if length < 8000 else "8k+"


def longbench_tasks() -> dict[str, LongBenchTask]:
    """All tasks of both, by name."""
    names = [(name, False) for name in ROWS] + [(name, True) for name, row in ROWS.items() if row.extended]
    return {task.name: task for task in (_task(*each) for each in names)}


def _task(dataset: str, extended: bool) -> LongBenchTask:
    row = ROWS[dataset]
    return LongBenchTask(
        name=f"longbench_{dataset}_e" if extended else f"longbench_{dataset}",
        benchmark="LongBench-E" if extended else "LongBench",
        group=row.group,
        metric=row.kind.metric,
        max_new_tokens=row.max_new_tokens,
        chat=row.chat,
        stops_at_newline=row.stops_at_newline,
        dataset=dataset,
        extended=extended,
        scorer=row.kind.scorer,
    )
