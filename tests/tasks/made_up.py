"""Records of our own in the benchmarks' formats."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

CHAT_TEMPLATE = (
    "<s>{% for message in messages %}[the user, who asks a question, says]\n{{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}[the assistant, who answers it, says]\n{% endif %}"
)


def longbench(**changes: Any) -> dict[str, Any]:
    """A record of LongBench."""
    record = {
        "input": "Who mends the clock?",
        "context": "The miller mends {{ the }} clock.\u0085 It {stopped}.",
        "answers": ["The miller 3", "a miller 3"],
        "length": 9,
        "dataset": "any",
        "language": "en",
        "all_classes": None,
        "_id": "r1",
    }
    return record | changes


def infinitebench(**changes: Any) -> dict[str, Any]:
    """A record of InfiniteBench."""
    record = {"id": 7, "context": "A long {text}.", "input": "And the question?", "answer": ["12"], "options": []}
    return record | changes


def write(path: Path, records: Sequence[Mapping[str, Any] | str]) -> Path:
    """JSON lines; text stands for itself."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [each if isinstance(each, str) else json.dumps(each, ensure_ascii=False) for each in records]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")
    return path
