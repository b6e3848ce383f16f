"""The Python examples of docs/policies.md run, one after the other; two more in `tests/docs/test_examples.py`."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lavakv.models.load import load
from tests.cli.conftest import WORDS

PAGE = Path(__file__).parents[2] / "docs" / "policies.md"


def test_the_examples_run(model_dir: str, capsys: pytest.CaptureFixture[str]) -> None:
    loaded = load(model_dir, dtype="float32", device="cpu")
    text = " ".join(WORDS[index * 7 % 80] for index in range(180))
    names = {"model": loaded.model, "tokenizer": loaded.tokenizer, "text": text}
    examples = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    examples = [example for example in examples if "Replay.asking" not in example and "kvzap(" not in example]
    assert len(examples) == 3
    for example in examples:
        exec(example, names)
    rows = [line.rsplit(maxsplit=4) for line in capsys.readouterr().out.splitlines()[:6]]
    assert [(name, budget, question) for name, budget, question, *_ in rows] == [
        (name, budget, question)
        for name, budget in (("full cache", "all"), ("lava", "25%"), ("recency", "256"))
        for question in "01"
    ]
    assert float(rows[2][3]) > 0
