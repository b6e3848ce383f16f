"""Finding a task of the harness by its name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from lavakv.errors import TaskError
from lavakv.tasks.harness.config import task_config
from lavakv.tasks.harness.locate import description_of
from lavakv.tasks.harness.task import PREFIX, HarnessTask

_DEFAULT_NEW_TOKENS = 256  # as the harness has it for Hugging Face models


def harness_task(name: str) -> HarnessTask | None:
    """The harness's task of a name, with or without `harness:`; None if it has none that generates text.

    Raises:
        MissingExtraError: no harness.
    """
    file = description_of(name.removeprefix(PREFIX))
    config = None if file is None else task_config(file)
    if file is None or config is None or config.get("output_type", "generate_until") != "generate_until":
        return None
    if "class" in config:
        fix = "Run it with lm_eval itself, whose model class `lavakv` this package brings."
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
