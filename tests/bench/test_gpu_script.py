"""`make bench-gpu`: its script rehearsed on a CPU, and what it says without a GPU."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import lavakv

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"
TINY = [
    "--device",
    "cpu",
    "--shape",
    "tiny",
    "--tokens",
    "200",
    "--budget",
    "48",
    "--rounds",
    "1",
    "--prefill-rounds",
    "1",
    "--batch-size",
    "2",
]


BLOCKED = """
import runpy, sys
sys.modules.update(dict.fromkeys(["jinja2", "rich", "typer", "gguf"]))
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


NO_MASKS = """
import lavakv.bench.trial as trial
def broken(*_): raise RuntimeError("the driver died")
trial.masked_like = broken
"""


def _run(*arguments: str, first: str = "") -> subprocess.CompletedProcess[str]:
    """Run the script where packages are missing that only other commands need, after some Python."""
    source = str(Path(lavakv.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([source, os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-c", first + BLOCKED, str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_in_one_line() -> None:
    done = _run()
    assert done.returncode == 2
    assert done.stderr.strip() == "bench-gpu: no GPU that torch can use; nothing was measured."
    assert done.stdout == ""


def test_floors_first_aims_beside_measurements_json_last() -> None:
    done = _run(*TINY)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("machine: ")
    assert lines[1].startswith("floor: ")
    assert sum("(aim: " in line for line in lines) == 7
    record, *partial = (json.loads(line) for line in reversed(lines) if line.startswith("{"))
    assert [len(known["attention_parts"]) for known in partial] == [2, 1, 0]
    for known in partial:
        assert known["partial"]
        assert known["decode_ratio_to_floor"] == record["decode_ratio_to_floor"]
    assert "partial" not in record
    assert record["failed"] == []
    assert record["gpu"] == record["machine"]["name"]
    assert [part["batch_size"] for part in record["attention_parts"]] == [1, 2]
    assert record["tests"] == "no GPU tests run"
    assert record["prefill_ratio"] > 0


def test_a_failure_does_not_throw_the_other_figures_away() -> None:
    done = _run(*TINY, first=NO_MASKS)
    assert done.returncode == 1
    assert "RuntimeError: the driver died" in done.stderr
    record = json.loads(done.stdout.splitlines()[-1])
    assert record["failed"] == ["the model"]
    assert "decode_ratio_to_floor" not in record
    assert all(part["speedup_over_full"] > 0 for part in record["attention_parts"])
    assert sum("not measured (aim: " in line for line in done.stdout.splitlines()) == 4


@pytest.mark.parametrize(
    ("code", "said", "words"),
    [
        (0, "...\n\n3 passed, 1 skipped in 2.00s\n", "3 passed, 1 skipped in 2.00s"),
        (2, "E\n1 error in 0.10s\n", "failed (2): 1 error in 0.10s"),
        (1, "", "failed (1): "),
        (5, "no tests ran", "no GPU tests found"),
    ],
)
def test_what_the_gpus_tests_said(code, said, words, monkeypatch) -> None:
    namespace = runpy.run_path(str(SCRIPT))
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], code, said))
    assert namespace["correctness"]("cuda") == words
