"""Where the harness describes a task."""

from __future__ import annotations

import re
from functools import cache

from lavakv.tasks.extras import folder_of

# A top-level key `task`. Parsing all of the harness's YAML files, as it does itself, takes ten seconds; this one.
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
    for path in sorted(root.rglob("*.yaml")):
        if found := _NAME.search(path.read_bytes()):
            index.setdefault(found.group(1).decode(), path.relative_to(root).as_posix())
    return index
