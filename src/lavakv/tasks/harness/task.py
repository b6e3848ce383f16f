"""Any task of the harness that generates text, with the harness's own prompts and scores."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any

from typing_extensions import override

from lavakv.errors import TaskError
from lavakv.tasks.data import read_lines, read_records, strings
from lavakv.tasks.example import Example
from lavakv.tasks.harness.engine import engine, metrics
from lavakv.tasks.harness.local import as_on_the_hub, local_file
from lavakv.tasks.harness.prompt import split_after
from lavakv.tasks.settings import TaskSettings
from lavakv.tasks.task import Task, checked

PREFIX = "harness:"
_BULKY = ("longbench_", "infinitebench_")  # their scorers never look at the context


@dataclass(frozen=True)
class HarnessTask(Task):
    """One task of lm-evaluation-harness.

    An example's `classes` hold its record as JSON, which is all that the harness's scorer needs.

    Attributes:
        file: the harness's description of it.
    """

    file: str = ""

    @override
    def examples(self, settings: TaskSettings) -> Iterator[Example]:
        harness_name = self.name.removeprefix(PREFIX)

        def data(split: str) -> list[dict[str, Any]]:
            assert settings.data_dir is not None
            path = local_file(harness_name, split, settings.data_dir)
            return list(read_lines(path, as_on_the_hub, skip_broken=settings.skip_broken))

        generation = {"tokenizer": getattr(settings.tokenizer, "name_or_path", None)}
        generation |= {"max_seq_lengths": list(settings.lengths)} if settings.lengths else {}
        made = engine(self.file, None if settings.data_dir is None else data, metadata=generation)

        def parse(record: dict[str, Any], index: int) -> Example:
            return self._example(made, dict(record), index)

        found = read_records(made.eval_docs, self.name, parse, skip_broken=settings.skip_broken)
        return islice(found, settings.limit)

    def _example(self, made: Any, record: dict[str, Any], index: int) -> Example:
        prompt = made.fewshot_context(record, made.config.num_fewshot or 0, gen_prefix=made.doc_to_prefix(record))
        context, question = split_after(prompt, str(record.get("context") or ""))
        bulky = self.name.removeprefix(PREFIX).startswith(_BULKY)
        kept = {**record, "context": ""} if bulky else record
        return Example(
            task=self.name,
            name=str(record.get("_id") or index),
            context=context,
            question=question,
            answers=_shown(made.doc_to_target(record)),
            classes=(json.dumps(kept, ensure_ascii=False, default=str),),
        )

    @override
    def score(self, answers: Sequence[str], classes: Sequence[str], prediction: str) -> float:
        checked(self, answers)
        try:
            record = json.loads(classes[0])
        except (IndexError, ValueError) as error:
            fix = "Take the classes from an example or a record of this task."
            raise TaskError(f"classes of {self.name}", expected="its JSON", got=repr(classes)[:80], fix=fix) from error
        for stop in self.stop_strings:
            prediction = prediction.partition(stop)[0]
        found = metrics(_scoring_engine(self.file, classes[0]), record, prediction)
        return _single(self, found)


def _shown(target: Any) -> tuple[str, ...]:
    """Answers for a reader. The harness's scorer reads the record, so objects and truth values are fine; null is not.

    Raises:
        TypeError, ValueError: as `strings`.
    """
    listed = target if isinstance(target, list | tuple) else [target]
    return strings([json.dumps(each, default=str) if isinstance(each, dict | list | bool) else each for each in listed])


@lru_cache(maxsize=32)
def _scoring_engine(file: str, record: str) -> Any:
    """A task object on one record, so that nothing is loaded."""
    return engine(file, lambda _: [json.loads(record)], process_docs=None, fewshot_config=None, num_fewshot=0)


def _single(task: Task, found: Mapping[str, Any]) -> float:
    """The first metric's value; below 0 the harness means that it does not apply."""
    for value in found.values():
        if isinstance(value, bool | int | float) and value >= 0:
            if value > 1:
                break
            return float(value)
    raise TaskError(
        f"metric of {task.name}", expected="a score of 0 to 1 for each example", got=repr(dict(found))[:200],
        fix="Use lm_eval itself: this metric is one of whole sets.",
    )  # fmt: skip
