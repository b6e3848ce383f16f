"""Any task of the harness that generates text, found by its name, with the harness's own prompts and scores."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from typing_extensions import override

from lavakv.errors import TaskError
from lavakv.tasks.data import read_lines, read_records, strings
from lavakv.tasks.example import Example
from lavakv.tasks.halves import chosen_examples
from lavakv.tasks.harness.configurable import as_on_the_hub, configurable_task, local_file, metric_values
from lavakv.tasks.harness.descriptions import description_of, task_config
from lavakv.tasks.harness.prompt import split_after
from lavakv.tasks.settings import TaskSettings
from lavakv.tasks.task import Task, check_answers

PREFIX = "harness:"
_DEFAULT_NEW_TOKENS = 256  # the harness's default for Hugging Face models
_BULKY = ("longbench_", "infinitebench_")  # their scorers do not read the context


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
        made = configurable_task(self.file, None if settings.data_dir is None else data, metadata=generation)

        def parse(record: dict[str, Any], index: int) -> Example:
            return self._example(made, dict(record), index)

        found = read_records(made.eval_docs, self.name, parse, skip_broken=settings.skip_broken)
        return chosen_examples(found, settings)

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
        check_answers(self, answers)
        try:
            record = json.loads(classes[0])
        except (IndexError, ValueError) as error:
            fix = "Take the classes from an example or a record of this task."
            raise TaskError(f"classes of {self.name}", expected="its JSON", got=repr(classes)[:80], fix=fix) from error
        for stop in self.stop_strings:
            prediction = prediction.partition(stop)[0]
        found = metric_values(_scoring_task(self.file, classes[0]), record, prediction)
        return _single(self, found)


def _shown(target: Any) -> tuple[str, ...]:
    """Answers as text. The harness's scorer reads the record, so objects and booleans are allowed here; null is not.

    Raises:
        TypeError, ValueError: as `strings`.
    """
    listed = target if isinstance(target, list | tuple) else [target]
    return strings([json.dumps(each, default=str) if isinstance(each, dict | list | bool) else each for each in listed])


@lru_cache(maxsize=32)
def _scoring_task(file: str, record: str) -> Any:
    """A task object with one record, so that no data is loaded."""
    return configurable_task(
        file, lambda _: [json.loads(record)], process_docs=None, fewshot_config=None, num_fewshot=0
    )


def _single(task: Task, found: Mapping[str, Any]) -> float:
    """The first metric's value; negative values mean that a metric does not apply."""
    for value in found.values():
        if isinstance(value, bool | int | float) and value >= 0:
            if value > 1:
                break
            return float(value)
    raise TaskError(
        f"metric of {task.name}", expected="a score of 0 to 1 for each example", got=repr(dict(found))[:200],
        fix="Run this task with lm_eval itself: its metric is defined over whole sets.",
    )  # fmt: skip


def harness_task(name: str) -> HarnessTask | None:
    """The harness's task of a name, with or without `harness:`; None if it has none that generates text.

    Raises:
        MissingExtraError: the harness is not installed.
    """
    file = description_of(name.removeprefix(PREFIX))
    config = None if file is None else task_config(file)
    if file is None or config is None or config.get("output_type", "generate_until") != "generate_until":
        return None
    if "class" in config:
        fix = "Run it with lm_eval itself: lm_eval --model lavakv."
        raise TaskError(name, expected="a task that a YAML file describes", got="one in Python", fix=fix)
    generation = config.get("generation_kwargs") or {}
    tag = config.get("tag") or Path(file).parts[0]
    metric = (config.get("metric_list") or [{"metric": "score"}])[0]["metric"]
    version = (config.get("metadata") or {}).get("version", "")
    task = HarnessTask(
        name=name,
        benchmark=f"lm-evaluation-harness, {Path(file).parts[0]}",
        group=tag if isinstance(tag, str) else str(tag[0]),
        metric=str(metric),
        max_new_tokens=int(generation.get("max_gen_toks", generation.get("max_new_tokens", _DEFAULT_NEW_TOKENS))),
        chat=False,
        version=f"harness-{version}",
        file=file,
    )
    until = generation.get("until") or ()
    return replace(task, stop_strings=(until,) if isinstance(until, str) else tuple(until))
