"""The harness's own task objects."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

from lavakv.errors import LavaError, TaskError
from lavakv.tasks.extras import needed
from lavakv.tasks.harness.config import task_config

_SPLITS = ("training_split", "validation_split", "test_split", "fewshot_split")
_INDEX_ONLY = ("tag", "group", "task_list")
SEED = 1234  # the harness's own default for drawing examples


def engine(file: str, data: Callable[[str], list[dict[str, Any]]] | None, **changes: Any) -> Any:
    """A task of the harness.

    Args:
        file: its description.
        data: gives the records of a split; None loads from the hub.
        changes: to the description.

    Raises:
        MissingExtraError: no harness, or a package that the task needs.
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
            made = needed("lm_eval.api.task").ConfigurableTask(config=config)
        made.set_fewshot_seed(SEED)
    except LavaError:
        raise
    except Exception as error:  # hub, network and the task's own code can raise anything
        fix = "Check the network, or name local slices with --data-dir."
        raise _failed(f"harness task {config['task']}", "a loadable task", error, fix) from error
    return made


def metrics(made: Any, record: Mapping[str, Any], prediction: str) -> Mapping[str, Any]:
    """What the harness's filters and metrics make of a prediction, by the first of its filters.

    Raises:
        TaskError: they fail.
    """
    instance = needed("lm_eval.api.instance").Instance(
        request_type="generate_until", doc=dict(record), arguments=("", {}), idx=0, metadata=("", 0, 1)
    )
    instance.resps = [prediction]
    made._instances = [instance]
    try:
        made.apply_filters()
        first = next(iter(instance.filtered_resps.values()))
        found: Mapping[str, Any] = made.process_results(dict(record), [first])
    except Exception as error:  # the task's own code can raise anything
        fix = "Use lm_eval itself, and tell its authors."
        raise _failed(f"metric of harness task {made.config.task}", "a score", error, fix) from error
    return found


def _failed(what: str, expected: str, error: Exception, fix: str) -> TaskError:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return TaskError(what, expected=expected, got=lines[0], fix=fix)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the harness's advice on command line options that are not ours."""
    logger = logging.getLogger("lm_eval.api.task")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _dataset(records: list[dict[str, Any]]) -> Any:
    return needed("datasets").Dataset.from_list(records)
