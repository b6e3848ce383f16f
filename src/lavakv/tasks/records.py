"""A task's records, from a local slice or from the hub."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from lavakv.errors import TaskError
from lavakv.tasks.data import read_lines
from lavakv.tasks.extras import needed
from lavakv.tasks.harness.config import task_config
from lavakv.tasks.settings import TaskSettings

Item = TypeVar("Item")


def parsed_records(
    settings: TaskSettings, local: str, harness_file: str, parse: Callable[[dict[str, Any], int], Item]
) -> Iterator[Item]:
    """Every record of a task, parsed.

    Args:
        settings: say where from.
        local: path below `data_dir`.
        harness_file: the harness's description, which names the data set on the hub.
        parse: see `read_lines`.

    Raises:
        TaskError: no data, or a broken record.
    """
    if settings.data_dir is not None:
        return read_lines(settings.data_dir / local, parse, skip_broken=settings.skip_broken)
    return _parsed(_from_hub(task_config(harness_file)), parse, settings.skip_broken)


def _from_hub(config: dict[str, Any]) -> Iterable[dict[str, Any]]:
    datasets, path = needed("datasets"), config["dataset_path"]
    arguments = {key: value for key, value in (config.get("dataset_kwargs") or {}).items() if key != "features"}
    try:
        found: Iterable[dict[str, Any]] = datasets.load_dataset(
            path, config.get("dataset_name"), split=config["test_split"], **arguments
        )
    except Exception as error:  # whatever the hub, the network or the disk raise
        raise TaskError(
            f"data set {path}",
            expected="to load it from the hub",
            got=f"{type(error).__name__}: {error}",
            fix="Check the network, or name local slices with --data-dir.",
        ) from error
    return found


def _parsed(
    records: Iterable[dict[str, Any]], parse: Callable[[dict[str, Any], int], Item], skip_broken: bool
) -> Iterator[Item]:
    for index, record in enumerate(records):
        try:
            yield parse(record, index)
        except (KeyError, TypeError, ValueError) as error:
            if not skip_broken:
                raise TaskError(
                    f"record {index}", expected="a record of the task", got=repr(error), fix="Ask to skip broken ones."
                ) from error


def strings(values: Any) -> tuple[str, ...]:
    """A record's answers, a list or a single one, as text.

    Raises:
        ValueError: none.
    """
    answers = tuple(str(value) for value in (values if isinstance(values, list | tuple) else [values]))
    if not any(answer.strip() for answer in answers):
        raise ValueError("no answers")
    return answers
