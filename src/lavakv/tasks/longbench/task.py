"""A task of LongBench under the paper's protocol."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from typing_extensions import override

from lavakv.tasks.data import Parse, read_lines, read_records, strings, text
from lavakv.tasks.example import Example
from lavakv.tasks.halves import chosen_examples
from lavakv.tasks.harness.descriptions import task_config
from lavakv.tasks.harness.prompt import fill_template, split_after
from lavakv.tasks.hub import hub_records
from lavakv.tasks.longbench.table import ROWS
from lavakv.tasks.settings import TaskSettings
from lavakv.tasks.task import Task, check_answers, check_protocol

# config/dataset2prompt.json ends these four in white space ...
_ENDS = {"lcc": "\n", "repobench-p": "\n", "passage_count": " ", "passage_retrieval_en": " "}
# ... and leaves an empty line between the examples and the question of these two.
_SEPARATED = ("triviaqa", "samsum")


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
    if dataset in _SEPARATED:
        before, _, after = template.partition("{{context}}")
        template = f"{before}{{{{context}}}}\n\n{after.lstrip(chr(10))}"
    end = _ENDS.get(dataset)
    return template if end is None else template.rstrip() + end


@dataclass(frozen=True)
class LongBenchTask(Task):
    """One data set of LongBench or LongBench-E.

    Attributes:
        dataset: its name there, without `_e`.
        extended: LongBench-E.
    """

    dataset: str = ""
    extended: bool = False

    @property
    def file(self) -> str:
        """Name of the data file and of the harness's description."""
        return f"{self.dataset}_e" if self.extended else self.dataset

    @override
    def examples(self, settings: TaskSettings) -> Iterator[Example]:
        check_protocol(self, settings)
        template = official_template(self.dataset, self.file)

        def parse(record: dict[str, Any], index: int) -> Example:
            return self._example(template, record, index)

        return chosen_examples(self._parsed(settings, parse), settings)

    def _parsed(self, settings: TaskSettings, parse: Parse[Example]) -> Iterator[Example]:
        if settings.data_dir is not None:
            folder = settings.data_dir / ("longbench_e" if self.extended else "longbench")
            return read_lines(folder / f"{self.file}.jsonl", parse, skip_broken=settings.skip_broken)
        records = hub_records(task_config(f"longbench/{self.file}.yaml"))
        return read_records(records, self.name, parse, skip_broken=settings.skip_broken)

    def _example(self, template: str, record: dict[str, Any], index: int) -> Example:
        context = text(record, "context")
        question = text(record, "input" if "input" in record else "question")  # the harness's copy renamed it
        answers, classes = strings(record["answers"]), tuple(record.get("all_classes") or ())
        ROWS[self.dataset].kind.scorer(
            "", answers, classes
        )  # answers that it cannot use are found here, not after a run
        before, after = split_after(fill_template(template, {"context": context, "question": question}), context)
        return Example(
            task=self.name,
            name=str(record.get("_id") or index),
            context=before,
            source=context,
            question=after,
            answers=answers,
            classes=classes,
            group=_bucket(record["length"]) if self.extended else "",
        )

    @override
    def score(self, answers: Sequence[str], classes: Sequence[str], prediction: str) -> float:
        return ROWS[self.dataset].kind.scorer(prediction, check_answers(self, answers), classes)


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
    )
