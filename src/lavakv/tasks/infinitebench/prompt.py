"""InfiniteBench's prompts: the official ones if the user has their file, else the harness's."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import Any

from lavakv.errors import TaskError
from lavakv.tasks.data import text
from lavakv.tasks.harness.descriptions import task_config
from lavakv.tasks.harness.prompt import fill_template
from lavakv.tasks.infinitebench.table import Row

OFFICIAL_FILE = "prompt.py"
_TEMPLATES = "yarn_mistral_templates"
# The harness has no math_calc. The right list starts after the first operation; so do the totals asked for here.
_MATH_CALC = "Work out this sum step by step. Give the running total after each operation, in order.\n\n{}\n\nTotals:"


def prompt_of(name: str, row: Row, record: dict[str, Any], folder: Path | None) -> str:
    """The whole prompt of a record.

    Args:
        name: the harness's name of the task.
        row: the task.
        record: of the data.
        folder: of the data; a file `prompt.py` in it, the benchmark's own, gives the prompts made for YaRN-Mistral.

    Raises:
        KeyError: a field is missing.
        TaskError: a `prompt.py` without those prompts.
    """
    if folder is not None and (folder / OFFICIAL_FILE).is_file():
        return str(_official(folder / OFFICIAL_FILE)[row.official].format(**_fields(record)))
    if not row.in_harness:
        return _MATH_CALC.format(text(record, "context"))
    return _harness_prompt(name, record)


def _harness_prompt(name: str, record: dict[str, Any]) -> str:
    config = task_config(f"infinitebench/infinitebench_{name}.yaml", functions=True)
    return str(config.get("description", "")) + fill_template(config["doc_to_text"], record)


@cache
def _official(path: Path) -> dict[str, str]:
    """The templates in the benchmark's own file, which is parsed, not run."""
    try:
        for statement in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == _TEMPLATES:
                templates: dict[str, str] = ast.literal_eval(statement.value)
                return templates
    except (OSError, SyntaxError, ValueError) as error:
        raise TaskError(
            str(path), expected="Python with literal templates", got=str(error), fix="Fix that file, or remove it."
        ) from error
    raise TaskError(str(path), expected=f"a table {_TEMPLATES}", got="none", fix="Fix that file, or remove it.")


def _fields(record: dict[str, Any]) -> dict[str, str]:
    """All fields that the official templates may use (create_prompt in src/eval_utils.py)."""
    question = text(record, "input")
    call = re.search(r"(func_[0-9]+)\(-?[0-9]+\)", question)
    prefix = _harness_prompt("math_find", {"context": "", "input": question}).partition("\n\n")[0]
    fields = {"context": text(record, "context"), "input": question, "question": question}
    fields |= {"prefix": prefix, "prompt": prefix}
    fields |= {"func": call.group(1), "func_call": call.group()} if call else {}
    return fields | {f"OPTION_{letter}": str(option) for letter, option in zip("ABCD", record["options"], strict=False)}
