"""Data from the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lavakv.errors import DataUnavailableError
from lavakv.tasks.extras import import_extra


def hub_records(config: dict[str, Any]) -> Iterable[dict[str, Any]]:
    """The records that a harness description names, through `datasets`.

    Raises:
        MissingExtraError: the package `datasets` is not installed.
        DataUnavailableError: they cannot be loaded.
    """
    datasets, path = import_extra("datasets"), config["dataset_path"]
    try:
        records: Iterable[dict[str, Any]] = datasets.load_dataset(
            path, config.get("dataset_name"), split=config["test_split"]
        )
    except Exception as error:  # hub, network and disk may raise anything
        raise _unreachable(path, error) from error
    return records


def hub_file(repository: str, file: str) -> Path:
    """A file of a data set, fetched into the hub's cache.

    Raises:
        DataUnavailableError: it cannot be fetched.
    """
    try:
        return Path(import_extra("huggingface_hub").hf_hub_download(repository, file, repo_type="dataset"))
    except Exception as error:  # hub, network and disk may raise anything
        raise _unreachable(f"{repository}/{file}", error) from error


def _unreachable(what: str, error: Exception) -> DataUnavailableError:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return DataUnavailableError(
        f"data set {what}",
        expected="to load it from the hub",
        got=lines[0],
        fix="Check the network, or name a folder of local slices with --data-dir.",
    )
