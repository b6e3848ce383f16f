"""Where the harness describes a task."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from functools import cache

from lavakv.tasks.extras import folder_of

# A top-level key `task`. The harness parses all of its YAML files, which takes ten seconds; this takes half a second.
_NAME = re.compile(rb"""^["']?task["']?[ \t]*:[ \t]*["']?([^\s"'#\[]+)["']?[ \t]*\r?$""", re.MULTILINE)


def description_of(name: str) -> str | None:
    """The file, below the harness's folder of tasks, that describes a task; None if there is no such task.

    Raises:
        MissingExtraError: no harness.
    """
    return harness_index().get(name.removeprefix("ruler_") if name.startswith("ruler_niah") else name)


@cache
def harness_index() -> dict[str, str]:
    """Every task of the harness and its description's file, below the harness's folder of tasks.

    Raises:
        MissingExtraError: no harness.
    """
    root, index = folder_of("lm_eval") / "tasks", dict[str, str]()
    for parts in sorted(_descriptions(str(root))):
        with open(os.path.join(root, *parts), "rb", buffering=0) as file:
            found = _NAME.search(file.read())
        if found:
            index.setdefault(found.group(1).decode(), "/".join(parts))
    return index


def _descriptions(root: str) -> Iterator[tuple[str, ...]]:
    """YAML files below a folder, as parts of paths: there are thousands, and objects for paths take half the time."""
    for folder, _, files in os.walk(root):
        below = tuple(folder[len(root) :].split(os.sep)[1:])
        yield from ((*below, file) for file in files if file.endswith(".yaml"))
