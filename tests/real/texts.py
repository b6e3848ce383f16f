"""Long real texts: a benchmark record, where the shared data lie beside the repository, and Python's own docstrings."""

from __future__ import annotations

import importlib
import inspect
import json
from pathlib import Path

RECORDS = Path(__file__).resolve().parents[2] / ".." / "shared" / "data" / "longbench" / "multifieldqa_en.jsonl"
RECORD_ID = "ed61bdde19a3446389e989c06ab4209f464f9484d42dbd1c"  # 2,103 tokens of SmolLM2, without the question
MODULES = ("argparse", "collections", "copy", "difflib", "functools", "heapq", "textwrap", "threading")


def record() -> str | None:
    """One LongBench document with its question last, or nothing where the data are absent."""
    if not RECORDS.is_file():
        return None
    with RECORDS.open(encoding="utf-8") as lines:
        found = next(item for item in map(json.loads, lines) if item["_id"] == RECORD_ID)
    return f"{found['context']}\n\nQuestion: {found['input']}\nAnswer:"


def docstrings() -> str:
    """Docstrings of the standard library, its modules and their functions and classes in a fixed order."""
    parts = []
    for name in MODULES:
        module = importlib.import_module(name)
        members = [getattr(module, member) for member in sorted(module.__all__)]
        documented = [member for member in members if inspect.isclass(member) or inspect.isroutine(member)]
        parts += [f"{name}\n\n{inspect.getdoc(module)}"]
        parts += [f"{member.__name__}\n\n{inspect.getdoc(member)}" for member in documented]
    return "\n\n\n".join(parts)
