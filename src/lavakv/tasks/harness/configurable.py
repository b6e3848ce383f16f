"""The harness's own task objects, and the local records they are given."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

from lavakv.errors import LavaError, TaskError
from lavakv.tasks.extras import import_extra
from lavakv.tasks.harness.descriptions import task_config
from lavakv.tasks.infinitebench.table import ROWS as INFINITEBENCH

_SPLITS = ("training_split", "validation_split", "test_split", "fewshot_split")
_INDEX_ONLY = ("tag", "group", "task_list")
SEED = 1234  # the harness's own default for few-shot examples


def configurable_task(file: str, data: Callable[[str], list[dict[str, Any]]] | None, **changes: Any) -> Any:
    """Make a task object of the harness (`ConfigurableTask`).

    Args:
        file: its description, below the harness's folder of tasks.
        data: returns the records of a split; None loads from the hub.
        changes: keys of the description to replace.

    Raises:
        MissingExtraError: the harness or a package that the task needs is not installed.
        TaskError: the harness cannot make it.
    """
    config = {
        key: value for key, value in deepcopy(task_config(file, functions=True)).items() if key not in _INDEX_ONLY
    }
    config = {**config, **changes, "metadata": {**(config.get("metadata") or {}), **changes.get("metadata", {})}}
    if data is not None:
        splits = {config[key] for key in _SPLITS if config.get(key)}
        config["custom_dataset"] = lambda **_: {split: _dataset(data(split)) for split in splits}
    try:
        with _quiet():
            made = import_extra("lm_eval.api.task").ConfigurableTask(config=config)
        made.set_fewshot_seed(SEED)
    except LavaError:
        raise
    except Exception as error:  # hub, network and the task's own code can raise anything
        fix = "Check the network, or name local slices with --data-dir."
        raise _failed(f"harness task {config['task']}", "a loadable task", error, fix) from error
    return made


def metric_values(made: Any, record: Mapping[str, Any], prediction: str) -> Mapping[str, Any]:
    """The harness's metrics of a prediction, by the first of its filters.

    Raises:
        TaskError: its filters or metrics fail.
    """
    instance = import_extra("lm_eval.api.instance").Instance(
        request_type="generate_until", doc=dict(record), arguments=("", {}), idx=0, metadata=("", 0, 1)
    )
    instance.resps = [prediction]
    made._instances = [instance]
    try:
        made.apply_filters()
        first = next(iter(instance.filtered_resps.values()))
        found: Mapping[str, Any] = made.process_results(dict(record), [first])
    except Exception as error:  # the task's own code can raise anything
        fix = "Run this task with lm_eval itself, and report the error to its authors."
        raise _failed(f"metric of harness task {made.config.task}", "a score", error, fix) from error
    return found


def _failed(what: str, expected: str, error: Exception, fix: str) -> TaskError:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return TaskError(what, expected=expected, got=lines[0], fix=fix)


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the harness's advice on command-line options that lavakv does not have."""
    logger = logging.getLogger("lm_eval.api.task")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _dataset(records: list[dict[str, Any]]) -> Any:
    return import_extra("datasets").Dataset.from_list(records)


def local_file(name: str, split: str, data_dir: Path) -> Path:
    """The file of a task's local records.

    LongBench's and InfiniteBench's own layout, `harness/<task>/<split>.jsonl` for others.

    Raises:
        TaskError: no such file.
    """
    short = name.partition("_")[2]
    path = data_dir / "harness" / name / f"{split}.jsonl"
    if name.startswith("longbench_"):
        path = data_dir / ("longbench_e" if name.endswith("_e") else "longbench") / f"{short}.jsonl"
    elif name.startswith("infinitebench_"):
        path = data_dir / "infinitebench" / f"{INFINITEBENCH[short].official}.jsonl"
    if not path.is_file():
        fix = "Put it there, or leave --data-dir out to load it from the hub."
        raise TaskError(str(path), expected=f"the {split} split of {name}", got="no file", fix=fix)
    return path


def as_on_the_hub(record: dict[str, Any], _index: int) -> dict[str, Any]:
    """A local record with the fields of the hub's copy, which the harness loads."""
    if "input" in record and "answers" in record:  # LongBench
        return {**record, "question": record["input"]}
    if "input" in record and isinstance(record.get("answer"), list):  # InfiniteBench
        return {**record, "answer": [str(answer) for answer in record["answer"]]}
    return record
