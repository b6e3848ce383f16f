"""Where a run's records and curves go."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lavakv.bench.plot import plot_curves, require_matplotlib
from lavakv.errors import InputError


class BenchFolder:
    """A folder that gets `results.jsonl`, a line a setting as each is done, and `curves.svg` at the end.

    Args:
        path: the folder; made if it is not there.

    Raises:
        InputError: it cannot be written, or holds another run's results.
        MissingExtraError: matplotlib is not installed.
    """

    def __init__(self, path: Path) -> None:
        require_matplotlib()
        self._path, self._records = path, path / "results.jsonl"
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._records.open("x").close()
        except FileExistsError as error:
            got = f"{path}, which is a file" if not path.is_dir() else f"{self._records}, which exists"
            raise InputError("--out", expected="a new folder", got=got, fix="Give another.") from error
        except OSError as error:
            raise InputError(
                "--out", expected="a folder that can be written", got=f"{path}: {error.strerror}", fix="Check the path."
            ) from error
        self._done: list[Mapping[str, Any]] = []

    def add(self, record: Mapping[str, Any], about: Mapping[str, Any]) -> None:
        """Write one setting down."""
        self._done.append(record)
        with self._records.open("a", encoding="utf-8") as out:
            out.write(json.dumps({**record, **about}, allow_nan=False) + "\n")

    def finish(self) -> None:
        """Draw the curves."""
        plot_curves(self._done, self._path / "curves.svg")
