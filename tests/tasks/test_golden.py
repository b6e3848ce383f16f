"""Official scores of made-up predictions; what is expected follows by hand from the benchmarks' definitions.

The cases lie in golden.json, their expected values as arithmetic.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lavakv.tasks import get_task, task_names

CASES: list[dict[str, Any]] = json.loads(Path(__file__).with_name("golden.json").read_text(encoding="utf-8"))
DOUBLE = 4 * 2.0**-53  # sums in another order


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['task']}-{case['why']}")
def test_official_score(case: dict[str, Any]) -> None:
    expected = eval(case["expected"], {"__builtins__": {}})
    score = get_task(case["task"]).score(case["answers"], case.get("classes", ()), case["prediction"])
    assert score == pytest.approx(expected, rel=DOUBLE, abs=0)


def test_every_task_has_cases() -> None:
    extended = {name for name in task_names() if name.startswith("longbench_") and name.endswith("_e")}
    ruler = {name for name in task_names() if name.startswith("ruler_niah")}
    assert set(task_names()) - extended - ruler == {case["task"] for case in CASES} - ruler


@pytest.mark.parametrize("name", [name for name in task_names() if name.endswith("_e")])
def test_longbench_e_scores_as_longbench(name: str) -> None:
    cases = [case for case in CASES if case["task"] == name.removesuffix("_e")]
    assert cases
    for case in cases:
        arguments = case["answers"], case.get("classes", ()), case["prediction"]
        assert get_task(name).score(*arguments) == get_task(case["task"]).score(*arguments)
