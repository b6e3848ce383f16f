"""The harness's prompt templates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from lavakv.tasks.extras import import_extra


def fill_template(template: str | Callable[[dict[str, Any]], str], record: Mapping[str, Any]) -> str:
    """The text that a harness template, Jinja or function, makes of a record."""
    if callable(template):
        return str(template(dict(record)))
    return str(_compiled(template).render(**record))


@cache
def _compiled(template: str) -> Any:
    """Compiled as in the harness: a missing field is an error, and the last newline stays."""
    jinja2 = import_extra("jinja2")
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    return environment.from_string(template)


def split_after(prompt: str, context: str) -> tuple[str, str]:
    """A prompt up to the end of the record's context, and the rest. Without a context, all is the rest."""
    start = prompt.find(context) if context else -1
    end = start + len(context) if start >= 0 else 0
    return prompt[:end], prompt[end:]
